//! The cluster's DNS server. It resolves `NAME.NAMESPACE.svc.cluster.local` to the Service's
//! address, or to the pods' addresses if the Service is headless.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use anyhow::Result;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::net::UdpSocket;

use crate::cluster::DOMAIN;

/// Answers DNS queries on port 53 of an address until the process ends.
pub async fn serve(client: Client, address: &str) -> Result<()> {
    let socket = UdpSocket::bind((address, 53)).await?;
    let (services, services_writer) = reflector::store::<Service>();
    let (endpoints, endpoints_writer) = reflector::store::<Endpoints>();
    let watch_services =
        reflector(services_writer, watcher(Api::all(client.clone()), watcher::Config::default()).default_backoff());
    let watch_endpoints =
        reflector(endpoints_writer, watcher(Api::all(client), watcher::Config::default()).default_backoff());
    let answer = async {
        let mut query = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut query).await?;
            let names = names(&services.state(), &endpoints.state());
            if let Some(reply) = reply(&query[..length], &names) {
                socket.send_to(&reply, peer).await?;
            }
        }
    };
    tokio::select! {
        result = answer => result,
        () = watch_services.for_each(async |_| ()) => Ok(()),
        () = watch_endpoints.for_each(async |_| ()) => Ok(()),
    }
}

type Names = HashMap<String, Vec<Ipv4Addr>>;

fn names(services: &[std::sync::Arc<Service>], endpoints: &[std::sync::Arc<Endpoints>]) -> Names {
    let mut names = Names::new();
    for service in services {
        let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
        let cluster_ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        let addresses = if cluster_ip == "None" {
            let same =
                |e: &&std::sync::Arc<Endpoints>| e.name_any() == name && e.namespace().as_ref() == Some(&namespace);
            endpoints.iter().find(same).map(|endpoints| ready_addresses(endpoints)).unwrap_or_default()
        } else {
            cluster_ip.parse().into_iter().collect()
        };
        names.insert(format!("{name}.{namespace}.svc.{DOMAIN}"), addresses);
    }
    names
}

fn ready_addresses(endpoints: &Endpoints) -> Vec<Ipv4Addr> {
    let subsets = endpoints.subsets.iter().flatten();
    subsets.flat_map(|subset| subset.addresses.iter().flatten()).filter_map(|address| address.ip.parse().ok()).collect()
}

const HEADER: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];
const CLASS_IN: [u8; 2] = [0, 1];
const NXDOMAIN: u8 = 3;

/// Returns the reply to a DNS query (RFC 1035, section 4) with one question, or `None` for any
/// other message.
fn reply(query: &[u8], names: &Names) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    let is_query = header[2] & 0x80 == 0;
    if !is_query || header[4..6] != [0, 1] {
        return None;
    }
    let (name, length) = question_name(&query[HEADER..])?;
    let question = query.get(HEADER..HEADER + length + 4)?;
    let kind = &question[length..];

    let known = names.get(&name.to_ascii_lowercase());
    let addresses = known.filter(|_| kind == [TYPE_A, CLASS_IN].concat()).map(Vec::as_slice).unwrap_or_default();
    let mut reply = Vec::with_capacity(512);
    reply.extend(&header[..2]);
    // The flags are: response, authoritative, recursion desired (copied from the query), recursion
    // available.
    reply.push(0x84 | (header[2] & 0x79));
    reply.push(0x80 | if known.is_some() { 0 } else { NXDOMAIN });
    reply.extend([0, 1]);
    // 15 answers of 16 bytes fit into 512 bytes together with the longest name (255 bytes).
    let addresses = &addresses[..addresses.len().min(15)];
    reply.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
    reply.extend([0, 0, 0, 0]);
    reply.extend(question);
    for address in addresses {
        let name_again = [0xc0, u8::try_from(HEADER).ok()?];
        let seconds_to_live = 2_u32.to_be_bytes();
        reply.extend(name_again);
        reply.extend([TYPE_A, CLASS_IN].concat());
        reply.extend(seconds_to_live);
        reply.extend([0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}

/// Returns the name at the beginning of a question and its encoded length in bytes.
fn question_name(mut rest: &[u8]) -> Option<(String, usize)> {
    let start = rest.len();
    let mut labels = Vec::new();
    loop {
        let (&length, tail) = rest.split_first()?;
        if length == 0 {
            return Some((labels.join("."), start - tail.len()));
        }
        let (label, tail) = tail.split_at_checked(length.into()).filter(|_| length < 64)?;
        labels.push(std::str::from_utf8(label).ok()?);
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    fn known() -> Names {
        Names::from([("web.default.svc.cluster.local".to_owned(), vec![Ipv4Addr::new(10, 96, 1, 2)])])
    }

    #[test]
    fn a_known_name_resolves_to_its_address() {
        let query = query("Web.default.svc.cluster.local", 1);
        let reply = reply(&query, &known()).unwrap();
        assert_eq!(reply[..8], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1]);
        assert_eq!(reply[HEADER..query.len()], query[HEADER..]);
        assert_eq!(reply[reply.len() - 6..], [0, 4, 10, 96, 1, 2]);
    }

    #[test]
    fn a_known_name_has_no_ipv6_address_and_an_unknown_name_does_not_exist() {
        let ipv6 = reply(&query("web.default.svc.cluster.local", 28), &known()).unwrap();
        assert_eq!(ipv6[3..8], [0x80, 0, 1, 0, 0]);
        let unknown = reply(&query("web.default.svc", 1), &known()).unwrap();
        assert_eq!(unknown[3..8], [0x83, 0, 1, 0, 0]);
    }

    #[test]
    fn a_truncated_query_gets_no_answer() {
        let whole = query("web.default.svc.cluster.local", 1);
        for length in 0..whole.len() {
            assert_eq!(reply(&whole[..length], &known()), None, "{length} bytes");
        }
    }
}
