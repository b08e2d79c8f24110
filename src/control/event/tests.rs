use proptest::prelude::*;

use super::super::codec::Line;
use super::*;

const ADDRESS: &str = "kwbperink5onhynsd5lhxhx2snk6qrmbn2lfrkz7kkwcapy5qzwrhnid";
const BLINDED: &str = "FOMv/vp7vxOaYZqLaahSvi6QTwxMW+EHs4B1Bpejqfs";
const HSDIR: [u8; 20] = *b"\x38\x95\x47\xAC\x56\xA0\x8D\x21\x3E\x2C\x0A\x46\x8B\xFB\x0C\x92\xC8\xCC\x1F\x66";
const HSDIR_NAME: &str = "$389547AC56A08D213E2C0A468BFB0C92C8CC1F66~auth2";

fn event(first: &str) -> Event {
    Event::from_message(&Message { code: 650, lines: vec![Line { text: first.to_owned(), data: None }] })
}

fn hs_desc(action: HsDescAction, hsdir: Option<[u8; 20]>, id: Option<&str>, reason: Option<&str>) -> Event {
    Event::HsDesc(HsDescEvent {
        action,
        address: Some(ADDRESS.parse().unwrap()),
        hsdir,
        descriptor_id: id.map(str::to_owned),
        reason: reason.map(str::to_owned),
    })
}

/// The lines in this test were written by tor 0.4.9.11 on a private network.
#[test]
fn parses_hs_desc_of_tor_0_4_9_11() {
    use HsDescAction::{Created, Failed, Requested, Uploaded};
    let cases = [
        (format!("CREATED {ADDRESS} UNKNOWN UNKNOWN {BLINDED}"), hs_desc(Created, None, Some(BLINDED), None)),
        (format!("UPLOADED {ADDRESS} UNKNOWN {HSDIR_NAME}"), hs_desc(Uploaded, Some(HSDIR), None, None)),
        (
            format!("FAILED {ADDRESS} NO_AUTH {HSDIR_NAME} {BLINDED} REASON=UPLOAD_REJECTED"),
            hs_desc(Failed, Some(HSDIR), Some(BLINDED), Some("UPLOAD_REJECTED")),
        ),
        (
            format!("REQUESTED {ADDRESS} NO_AUTH {HSDIR_NAME} {BLINDED} HSDIR_INDEX=FD7E1466DF82A350141E4960B0187F5C"),
            hs_desc(Requested, Some(HSDIR), Some(BLINDED), None),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(event(&format!("HS_DESC {text}")), expected, "{text}");
    }
}

/// The forms in this test are from control-spec, section 4.1.25. They have not been seen in
/// practice.
#[test]
fn parses_hs_desc_of_the_specification() {
    use HsDescAction::{Failed, Ignore, Received, Upload};
    let bare = HSDIR_NAME.strip_suffix("~auth2").unwrap();
    let cases = [
        (format!("RECEIVED {ADDRESS} NO_AUTH {bare} {BLINDED}"), hs_desc(Received, Some(HSDIR), Some(BLINDED), None)),
        (format!("IGNORE {ADDRESS} NO_AUTH {bare}=auth2"), hs_desc(Ignore, Some(HSDIR), None, None)),
        (format!("FAILED {ADDRESS} UNKNOWN UNKNOWN REASON=NOT_FOUND"), hs_desc(Failed, None, None, Some("NOT_FOUND"))),
        (
            format!("UPLOAD {ADDRESS} UNKNOWN {HSDIR_NAME} {BLINDED} REPLICA=1 HSDIR_INDEX=00"),
            hs_desc(Upload, Some(HSDIR), Some(BLINDED), None),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(event(&format!("HS_DESC {text}")), expected, "{text}");
    }
    let Event::HsDesc(unknown) = event("HS_DESC FAILED UNKNOWN NO_AUTH UNKNOWN REASON=QUERY_NO_HSDIR") else {
        panic!("not an HS_DESC event");
    };
    assert_eq!(unknown.address, None);
}

fn content(first: &str, data: Option<&str>) -> Event {
    let first = Line { text: first.to_owned(), data: data.map(str::to_owned) };
    let last = Line { text: "OK".to_owned(), data: None };
    Event::from_message(&Message { code: 650, lines: vec![first, last] })
}

#[test]
fn parses_the_result_of_a_fetch() {
    let first = format!("HS_DESC_CONTENT {ADDRESS} {BLINDED} {HSDIR_NAME}");
    let expected = |descriptor: &str| {
        let (address, descriptor) = (ADDRESS.parse().unwrap(), descriptor.to_owned());
        Event::HsDescContent(HsDescContent { address, hsdir: HSDIR, descriptor })
    };
    assert_eq!(content(&first, Some("\nhs-descriptor 3\nx\n")), expected("hs-descriptor 3\nx\n"));
    assert_eq!(content(&first, Some("hs-descriptor 3\n")), expected("hs-descriptor 3\n"));
    assert_eq!(content(&first, Some("\n")), expected(""), "after a failure");
    let longest = "x".repeat(MAX_DESCRIPTOR);
    assert_eq!(content(&first, Some(&longest)), expected(&longest));
    for (bad, data) in [
        (first.clone(), Some(longest + "x")),
        (first, None),
        (format!("HS_DESC_CONTENT {ADDRESS} {BLINDED}"), Some("x".to_owned())),
        (format!("HS_DESC_CONTENT {ADDRESS} {BLINDED} UNKNOWN"), Some("x".to_owned())),
        (format!("HS_DESC_CONTENT UNKNOWN {BLINDED} {HSDIR_NAME}"), Some("x".to_owned())),
    ] {
        assert!(matches!(content(&bad, data.as_deref()), Event::Other(..)), "{bad}");
    }
}

#[test]
fn hs_desc_in_an_unknown_form_is_kept_as_text() {
    for text in [
        String::new(),
        "FAILED".to_owned(),
        format!("NEWACTION {ADDRESS} NO_AUTH UNKNOWN"),
        format!("FAILED {}x NO_AUTH UNKNOWN", &ADDRESS[1..]),
        format!("FAILED {ADDRESS} NO_AUTH $12"),
        format!("FAILED {ADDRESS} NO_AUTH {}é", &HSDIR_NAME[..40]),
        format!("FAILED {ADDRESS} NO_AUTH {}0", &HSDIR_NAME[..41]),
    ] {
        assert_eq!(event(&format!("HS_DESC {text}")), Event::Other("HS_DESC".to_owned(), text));
    }
}

#[test]
fn parses_the_other_events() {
    assert_eq!(event("NEWCONSENSUS"), Event::NewConsensus);
    assert_eq!(event("NEWDESC $389547AC56A08D213E2C0A468BFB0C92C8CC1F66~auth2"), Event::NewDescriptors);
    let bootstrap =
        "STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=75 TAG=enough_dirinfo SUMMARY=\"Loaded enough directory info\"";
    assert_eq!(event(bootstrap), Event::Bootstrap(75));
    let other = Event::Other("STATUS_CLIENT".to_owned(), "NOTICE ENOUGH_DIR_INFO".to_owned());
    assert_eq!(event("STATUS_CLIENT NOTICE ENOUGH_DIR_INFO"), other);
    assert_eq!(event("SIGNAL RELOAD"), Event::Other("SIGNAL".to_owned(), "RELOAD".to_owned()));
}

#[test]
fn parses_bootstrap_percentages() {
    let warning = "WARN BOOTSTRAP SUMMARY=\"not PROGRESS=90 \\\"yet\\\"\" PROGRESS=5 REASON=TIMEOUT";
    assert_eq!(bootstrap_percent(warning), Some(5));
    assert_eq!(bootstrap_percent("NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY=\"Done\""), Some(100));
    for bad in ["", "NOTICE BOOTSTRAP", "NOTICE BOOTSTRAP PROGRESS=101", "NOTICE BOOTSTRAP PROGRESS=-1", "PROGRESS=5"] {
        assert_eq!(bootstrap_percent(bad), None, "{bad}");
    }
}

/// Formats the line of an event as control-spec defines it.
fn write(event: &HsDescEvent) -> String {
    let action = match event.action {
        HsDescAction::Requested => "REQUESTED",
        HsDescAction::Upload => "UPLOAD",
        HsDescAction::Received => "RECEIVED",
        HsDescAction::Uploaded => "UPLOADED",
        HsDescAction::Ignore => "IGNORE",
        HsDescAction::Failed => "FAILED",
        HsDescAction::Created => "CREATED",
    };
    let address = event.address.map_or("UNKNOWN".to_owned(), |address| address.identifier());
    let hsdir =
        event.hsdir.map_or("UNKNOWN".to_owned(), |hsdir| format!("${}~relay", HEXUPPER_PERMISSIVE.encode(&hsdir)));
    let id = event.descriptor_id.iter().map(|id| format!(" {id}"));
    let reason = event.reason.iter().map(|reason| format!(" REASON={reason}"));
    format!("HS_DESC {action} {address} NO_AUTH {hsdir}{}", id.chain(reason).collect::<String>())
}

proptest! {
    #[test]
    fn parses_every_event_of_the_specification(
        action in prop::sample::select(
            [
                HsDescAction::Requested,
                HsDescAction::Upload,
                HsDescAction::Received,
                HsDescAction::Uploaded,
                HsDescAction::Ignore,
                HsDescAction::Failed,
                HsDescAction::Created,
            ]
            .as_slice(),
        ),
        seed in prop::option::of(any::<[u8; 32]>()),
        hsdir in prop::option::of(any::<[u8; 20]>()),
        descriptor_id in prop::option::of("[A-Za-z0-9+/]{43}"),
        reason in prop::option::of("[A-Z_]{1,20}"),
    ) {
        let address = seed.map(|seed| {
            let key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().to_bytes();
            OnionAddress::from_public_key(key).unwrap()
        });
        let sent = HsDescEvent { action, address, hsdir, descriptor_id, reason };
        prop_assert_eq!(event(&write(&sent)), Event::HsDesc(sent));
    }

    #[test]
    fn parsing_an_event_never_panics(name in "HS_DESC|HS_DESC_CONTENT|STATUS_CLIENT", rest in "(FAILED|UPLOADED|UNKNOWN|BOOTSTRAP|\\$[0-9A-F]{38,42}|.{0,9}|[ =~\"]){0,8}") {
        _ = event(&format!("{name} {rest}"));
    }
}
