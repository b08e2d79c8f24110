//! Tests of the client with scripted streams, which exhibit behavior that is hard to provoke with a
//! real tor.

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::super::testing::{PATIENCE, connect};
use super::*;

/// Returns the client's result for this reply to `GETINFO x`, and the reason why the connection
/// ended, if it has ended.
async fn get_info_answered(answer: &[u8]) -> (Result<String, ControlError>, Option<ControlError>) {
    let (client, _events, mut peer) = connect(PATIENCE);
    let (result, ()) = tokio::join!(client.get_info("x"), async {
        assert_eq!(peer.read_line().await, "GETINFO x\r\n");
        peer.write(answer).await;
        drop(peer);
    });
    timeout(PATIENCE, client.closed()).await.unwrap();
    (result, client.close_reason())
}

#[tokio::test]
async fn a_reply_may_arrive_byte_by_byte() {
    let (client, _events, mut peer) = connect(PATIENCE);
    let (result, ()) = tokio::join!(client.get_info("x"), async {
        peer.read_line().await;
        for byte in b"250+x=\r\n..a\r\n.\r\n250 OK\r\n" {
            peer.write([*byte]).await;
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(result.unwrap(), ".a\n");
}

#[tokio::test]
async fn commands_of_many_clones_are_answered_in_order() {
    let (client, _events, mut peer) = connect(PATIENCE);
    let asked = futures::future::join_all((0..100).map(|index| {
        let client = client.clone();
        async move { client.get_info(&format!("key{index}")).await.unwrap() == format!("value of key{index}") }
    }));
    let (answers, ()) = tokio::join!(asked, async {
        for _ in 0..100 {
            let line = peer.read_line().await;
            let key = line.trim_end().strip_prefix("GETINFO ").unwrap();
            peer.write(format!("650 SIGNAL RELOAD\r\n250-{key}=value of {key}\r\n250 OK\r\n")).await;
        }
    });
    assert_eq!(answers, vec![true; 100]);
}

#[tokio::test]
async fn the_reply_to_a_cancelled_command_is_discarded() {
    let (client, _events, mut peer) = connect(PATIENCE);
    {
        let cancelled = client.get_info("first");
        tokio::pin!(cancelled);
        tokio::select! {
            biased;
            _ = &mut cancelled => panic!("the client returned a result before any reply"),
            line = peer.read_line() => assert_eq!(line, "GETINFO first\r\n"),
        }
    }
    let (second, ()) = tokio::join!(client.get_info("second"), async {
        peer.read_line().await;
        peer.write("250-first=1\r\n250 OK\r\n250-second=2\r\n250 OK\r\n").await;
    });
    assert_eq!(second.unwrap(), "2");
}

#[tokio::test]
async fn an_unanswered_command_ends_the_connection() {
    let deadline = Duration::from_millis(50);
    let (client, _events, _peer) = connect(deadline);
    // The second command is longer than the stream's buffer, so that the test also covers a tor
    // that does not read at all.
    let descriptor = "x".repeat(100_000);
    let address = OnionAddress::from_public_key(curve25519_dalek::constants::ED25519_BASEPOINT_COMPRESSED.0).unwrap();
    let both = async { tokio::join!(client.get_info("x"), client.hs_post(&[[1; 20]], &address, &descriptor)) };
    let (first, second) = timeout(PATIENCE, both).await.unwrap();
    assert!(matches!(first, Err(ControlError::Timeout(after)) if after == deadline), "{first:?}");
    assert!(matches!(second, Err(ControlError::Timeout(_))), "{second:?}");
    assert!(matches!(client.close_reason(), Some(ControlError::Timeout(_))));
    assert!(matches!(client.get_info("x").await, Err(ControlError::Closed)));
}

#[tokio::test]
async fn a_connection_that_ends_within_a_reply_is_closed() {
    let (result, why) = get_info_answered(b"250+x=\r\nhalf a li").await;
    assert!(matches!(result, Err(ControlError::Closed)), "{result:?}");
    assert!(matches!(why, Some(ControlError::Closed)), "{why:?}");
}

#[tokio::test]
async fn invalid_data_and_endless_lines_end_the_connection() {
    for answer in [b"HTTP/1.1 400 Bad Request\r\n".to_vec(), vec![b'2'; 1 << 20]] {
        let (client, _events, mut peer) = connect(PATIENCE);
        let (result, _) = tokio::join!(client.get_info("x"), async {
            peer.read_line().await;
            // The client closes the stream before it has read everything.
            timeout(PATIENCE, peer.stream.write_all(&answer)).await.unwrap()
        });
        assert!(matches!(result, Err(ControlError::Protocol(_) | ControlError::NotTor(_))), "{result:?}");
    }
}

#[tokio::test]
async fn a_reply_before_invalid_data_is_delivered() {
    let (result, why) = get_info_answered(b"250-x=1\r\n250 OK\r\ngarbage\r\n").await;
    assert_eq!(result.unwrap(), "1");
    assert!(matches!(why, Some(ControlError::Protocol(_))), "{why:?}");
}

#[tokio::test]
async fn rejects_a_reply_to_another_command() {
    for answer in ["250 OK\r\n", "250-xy=1\r\n250 OK\r\n", "250-y=x=1\r\n250 OK\r\n", "150 x=1\r\n", "350 x=1\r\n"] {
        let (result, _) = get_info_answered(answer.as_bytes()).await;
        assert!(matches!(result, Err(ControlError::Protocol(_))), "{answer}: {result:?}");
    }
}

#[tokio::test]
async fn a_reply_without_a_command_ends_the_connection() {
    let (client, _events, mut peer) = connect(PATIENCE);
    peer.write("250 OK\r\n").await;
    timeout(PATIENCE, client.closed()).await.unwrap();
    assert!(matches!(client.close_reason(), Some(ControlError::Protocol(_))));
}

#[tokio::test]
async fn unread_events_end_the_connection_unless_the_receiver_was_dropped() {
    for wanted in [true, false] {
        let (client, events, mut peer) = connect(PATIENCE);
        let events = wanted.then_some(events);
        let flood = "650 SIGNAL RELOAD\r\n".repeat(EVENT_CAPACITY + 1);
        peer.write(&flood).await;
        let (result, ()) = tokio::join!(client.get_info("x"), async {
            if !wanted {
                peer.read_line().await;
                peer.write("250-x=1\r\n250 OK\r\n").await;
            }
        });
        assert_eq!(result.is_ok(), !wanted);
        let overflow = matches!(client.close_reason(), Some(ControlError::EventOverflow(EVENT_CAPACITY)));
        assert_eq!(overflow, wanted);
        drop(events);
    }
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_connection() {
    let (client, _events, mut peer) = connect(PATIENCE);
    let clone = client.clone();
    drop(client);
    assert!(clone.close_reason().is_none());
    drop(clone);
    assert_eq!(peer.read_line().await, "");
}

#[tokio::test]
async fn hs_post_sends_one_command() {
    let (client, _events, mut peer) = connect(PATIENCE);
    let address = OnionAddress::from_public_key(curve25519_dalek::constants::ED25519_BASEPOINT_COMPRESSED.0).unwrap();
    let servers = [[0xAB; 20], [0x01; 20]];
    let (result, ()) = tokio::join!(client.hs_post(&servers, &address, "hs-descriptor 3\n.\nsignature x"), async {
        let first = format!(
            "+HSPOST SERVER={} SERVER={} HSADDRESS={}\r\n",
            "AB".repeat(20),
            "01".repeat(20),
            address.identifier()
        );
        for expected in [first.as_str(), "hs-descriptor 3\r\n", "..\r\n", "signature x\r\n", ".\r\n"] {
            assert_eq!(peer.read_line().await, expected);
        }
        peer.write("554-Invalid\r\n554 descriptor\r\n").await;
    });
    let Err(ControlError::Refused { code: 554, message }) = result else { panic!("{result:?}") };
    assert_eq!(message, "Invalid; descriptor");
    assert!(matches!(client.hs_post(&[], &address, "").await, Err(ControlError::Argument(_))));
}

#[tokio::test]
async fn hs_fetch_names_the_hsdirs() {
    let (client, _events, mut peer) = connect(PATIENCE);
    let address = OnionAddress::from_public_key(curve25519_dalek::constants::ED25519_BASEPOINT_COMPRESSED.0).unwrap();
    let (result, ()) = tokio::join!(client.hs_fetch(&address, &[[0xAB; 20], [1; 20]]), async {
        let (identifier, first, second) = (address.identifier(), "AB".repeat(20), "01".repeat(20));
        assert_eq!(peer.read_line().await, format!("HSFETCH {identifier} SERVER={first} SERVER={second}\r\n"));
        peer.write("250 OK\r\n").await;
    });
    result.unwrap();
}

#[tokio::test]
async fn a_command_with_an_invalid_argument_is_not_sent() {
    let (client, _events, mut peer) = connect(PATIENCE);
    for bad in ["", "a b", "a\r\nSIGNAL HALT", "a\nb"] {
        assert!(matches!(client.get_info(bad).await, Err(ControlError::Argument(_))));
        assert!(matches!(client.get_conf(bad).await, Err(ControlError::Argument(_))));
        assert!(matches!(client.signal(bad).await, Err(ControlError::Argument(_))));
        assert!(matches!(client.set_events(&["HS_DESC", bad]).await, Err(ControlError::Argument(_))));
    }
    drop(client);
    assert_eq!(peer.read_line().await, "");
}

#[tokio::test]
async fn get_conf_returns_all_values() {
    for (answer, expected) in [
        ("250-Log=notice stdout\r\n250 Log=info file /x=y\r\n", Some(vec!["notice stdout", "info file /x=y"])),
        ("250 Log\r\n", Some(vec![])),
        ("250 Log=\r\n", Some(vec![""])),
        ("250 ContactInfo=x\r\n", None),
    ] {
        let (client, _events, mut peer) = connect(PATIENCE);
        let (result, ()) = tokio::join!(client.get_conf("log"), async {
            assert_eq!(peer.read_line().await, "GETCONF log\r\n");
            peer.write(answer).await;
        });
        match expected {
            Some(values) => assert_eq!(result.unwrap(), values),
            None => assert!(matches!(result, Err(ControlError::Protocol(_))), "{result:?}"),
        }
    }
}
