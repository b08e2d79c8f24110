//! Compares merged descriptors with the descriptors of a stock C tor that has the same number of
//! introduction points. They must match in every layer, down to the length of each line.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;
use onionbalance_e2e::onionkey;
use onionbalance_e2e::process::Processes;
use onionbalance_e2e::tornet::{Place, Tor, TorNetwork, make_private_dir};
use onionbalance_e2e::wait::{Seen, until};
use onionbalance_operator::consensus::{Network, NetworkKind};
use onionbalance_operator::control::{Client, Connector};
use onionbalance_operator::merge::{BackendId, Input, MergeEngine, Now, Output};
use onionbalance_operator::onion::{
    ClientSecretKey, Discovery, Kit, Kits, MasterKey, OnionAddress, PeriodCalendar, ServiceContent, ServiceKey,
    UncheckedDescriptor,
};

use crate::NETWORK;

const RELAYS: u16 = 42;
/// The number of Stable relays to wait for. Only relays that the authorities call Stable, about
/// half of all relays, become introduction points. A stock tor needs a different Stable relay for
/// each of its points.
const STABLE: usize = 20;
const BACKENDS: usize = 6;
/// The number of authorized clients. A descriptor pads its list of clients to a multiple of 16, so
/// this number leads to a list of 32.
const CLIENTS: u8 = 17;

/// A descriptor and the address that is needed to decrypt it.
pub struct Sample {
    pub text: String,
    pub address: OnionAddress,
}

#[tokio::test]
async fn a_merged_descriptor_has_the_layout_of_a_stock_tors_descriptor() -> Result<()> {
    let _network = NETWORK.lock().await;
    let dir = tempfile::tempdir()?;
    let processes = Processes::open(dir.path())?;
    let outcome = scenario(&processes, dir.path()).await;
    processes.kill_all();
    if outcome.is_err() {
        eprintln!("the files of the failed test are in {}", dir.keep().display());
    }
    outcome
}

async fn scenario(processes: &Processes, dir: &Path) -> Result<()> {
    let network = TorNetwork::of(RELAYS, &dir.join("network"), Place::Loopback, processes);
    network.up_completely().await?;
    let consensus = dir.join("network/authority0/data/cached-microdesc-consensus");
    until("enough relays are Stable", Duration::from_secs(180), async || {
        let text = fs::read_to_string(&consensus).unwrap_or_default();
        let stable = text.lines().filter(|line| line.starts_with("s ") && line.contains(" Stable ")).count();
        Ok(if stable < STABLE { Seen::NotYet(format!("{stable} relays are Stable")) } else { Seen::Yes(()) })
    })
    .await?;
    let torrc = network.torrc_lines()?;

    let backends = Services::start("backends", processes, dir, &torrc, &[3; BACKENDS], None).await?;
    let mut offers = Vec::new();
    for number in 0..BACKENDS {
        offers.push(Arc::new(backends.content(number, 3).await?));
    }
    let key = onionkey::make(processes, dir).await?;
    let key = fs::read(key.dir.join("hs_ed25519_secret_key"))?;
    let key = MasterKey::from_tor_secret_key_file(&key)?;
    let consensus = Arc::new(backends.network().await?);
    let (delegated, key) = (delegate(&key, &consensus)?, ServiceKey::from(key));

    let clients: Vec<_> = (1..=CLIENTS).map(|number| ClientSecretKey::from_bytes([number; 32])).collect();
    let restricted = Discovery::Restricted(clients.iter().map(ClientSecretKey::public).collect());
    let merged = merge_all(&key, &consensus, &offers)?;
    let delegated = merge_all(&delegated, &consensus, &offers)?;
    let closed = merge(&key, &consensus, &offers[..1], restricted)?;

    // Each stock service has as many points as the corresponding merged descriptor. A merged
    // descriptor may have fewer points than its backends together, because the backends may have
    // chosen the same relays.
    let counts: Vec<usize> =
        merged.iter().map(|merged| Ok(points(merged, None)?.introduction_points.len())).collect::<Result<_>>()?;
    ensure!(
        counts.iter().is_sorted() && counts[0] == 3 && counts[BACKENDS - 1] > 6,
        "unexpected numbers of points: {counts:?}"
    );
    let stock = Services::start("stock", processes, dir, &torrc, &counts, None).await?;
    for (number, (merged, count)) in merged.iter().zip(&counts).enumerate() {
        stock.content(number, *count).await?;
        let sample = stock.sample(number).await?;
        compare(merged, &sample, None).with_context(|| format!("with {count} points"))?;
        compare(&delegated[number], &sample, None).with_context(|| format!("delegated, with {count} points"))?;
    }

    let stock = Services::start("closed", processes, dir, &torrc, &[3], Some(&clients)).await?;
    let sample = stock.opened(0, 3, clients.first()).await?;
    compare(&closed, &sample, clients.last()).context("with authorized clients")?;
    for (owner, sample) in [("the merged", &closed), ("tor's", &sample)] {
        for client in &clients {
            let content = points(sample, Some(client)).with_context(|| format!("{owner} restricted descriptor"))?;
            ensure!(content.introduction_points.len() == 3, "{owner} descriptor must have three points: {content:?}");
        }
        let stranger = ClientSecretKey::from_bytes([99; 32]);
        ensure!(
            points(sample, Some(&stranger)).is_err() && points(sample, None).is_err(),
            "{owner} descriptor can be decrypted without an authorized key"
        );
    }
    Ok(())
}

/// A tor with several onion services, and its control connection.
struct Services {
    control: Client,
    addresses: Vec<OnionAddress>,
}

impl Services {
    async fn start(
        name: &str,
        processes: &Processes,
        dir: &Path,
        torrc: &str,
        points: &[usize],
        clients: Option<&[ClientSecretKey]>,
    ) -> Result<Self> {
        let dir = dir.join(name);
        make_private_dir(&dir)?;
        // By default, tor chooses introduction points as soon as it knows 60% of the relays.
        let mut torrc = format!("{torrc}SocksPort 0\nPublishHidServDescriptors 0\nPathsNeededToBuildCircuits 0.95\n");
        let folders: Vec<_> = (0..points.len()).map(|number| dir.join(format!("service{number}"))).collect();
        for (folder, points) in folders.iter().zip(points) {
            let authorized = folder.join("authorized_clients");
            make_private_dir(&authorized)?;
            for (number, client) in clients.into_iter().flatten().enumerate() {
                fs::write(authorized.join(format!("{number}.auth")), client.public().to_string())?;
            }
            writeln!(torrc, "HiddenServiceDir {}", folder.display())?;
            writeln!(torrc, "HiddenServicePort 80 127.0.0.1:9\nHiddenServiceNumIntroductionPoints {points}")?;
        }
        let tor = Tor::open(processes, name, &dir);
        tor.start(Command::new("tor"), &torrc)?;
        tor.wait_bootstrapped().await?;
        let (control, _events) = Connector::unix(tor.control_socket()).connect().await?;
        let addresses = folders.iter().map(|folder| Ok(fs::read_to_string(folder.join("hostname"))?.trim().parse()?));
        Ok(Self { control, addresses: addresses.collect::<Result<_>>()? })
    }

    async fn network(&self) -> Result<Network> {
        let consensus = self.control.get_info("dir/status-vote/current/consensus-microdesc").await?;
        let microdescriptors = self.control.get_info("md/all").await?;
        Ok(Network::parse(&consensus, &microdescriptors, NetworkKind::Testing)?)
    }

    /// Waits until a service's descriptor has the given number of points, and returns its content.
    async fn content(&self, number: usize, count: usize) -> Result<ServiceContent> {
        points(&self.opened(number, count, None).await?, None)
    }

    async fn sample(&self, number: usize) -> Result<Sample> {
        let address = self.addresses[number];
        let text = address.to_string();
        let key = format!("hs/service/desc/id/{}", text.trim_end_matches(".onion"));
        Ok(Sample { text: self.control.get_info(&key).await?, address })
    }

    /// Waits until a service's descriptor has the given number of points, and returns it. Decrypts
    /// it with the client's key, if given, to count the points.
    async fn opened(&self, number: usize, count: usize, client: Option<&ClientSecretKey>) -> Result<Sample> {
        until(&format!("service {number} has {count} points"), Duration::from_secs(180), async || {
            let sample = match self.sample(number).await {
                Ok(sample) => sample,
                Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
            };
            let found = points(&sample, client)?.introduction_points.len();
            Ok(if found == count { Seen::Yes(sample) } else { Seen::NotYet(format!("it has {found} points")) })
        })
        .await
    }
}

#[allow(clippy::disallowed_methods, reason = "the stock tors use the wall clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Decrypts a current descriptor with the client's key, if given, and returns its content.
fn points(sample: &Sample, client: Option<&ClientSecretKey>) -> Result<ServiceContent> {
    let unchecked = UncheckedDescriptor::parse(&sample.text)?;
    let blinded = unchecked.blinded_key();
    Ok(unchecked.check_as(client, &sample.address, &blinded, now())?.content)
}

/// Returns the signing kits of a master key for the network's present time periods.
fn delegate(key: &MasterKey, network: &Network) -> Result<ServiceKey> {
    let first = network.service_periods().first().context("the network has no time period")?.period;
    let kit = Kit::issue(key, PeriodCalendar::testing(first.length_minutes), first.number, 2)?;
    Ok(Kits::from(Kit::parse(&kit.to_bytes())?).into())
}

/// Returns the descriptors of the first backend, of the first two backends, and so on.
fn merge_all(key: &ServiceKey, network: &Arc<Network>, offers: &[Arc<ServiceContent>]) -> Result<Vec<Sample>> {
    (1..=offers.len()).map(|count| merge(key, network, &offers[..count], Discovery::Open)).collect()
}

/// Returns the descriptor that the merge engine would upload for the current time period.
fn merge(
    key: &ServiceKey,
    network: &Arc<Network>,
    offers: &[Arc<ServiceContent>],
    discovery: Discovery,
) -> Result<Sample> {
    let mut now = Now { wall: now(), elapsed: Duration::ZERO };
    let mut engine = MergeEngine::new(key.clone(), Some(discovery), [7; 32], now);
    engine.handle(Input::Network(Arc::clone(network)), now);
    engine.handle(Input::Leading(true), now);
    for (number, offer) in offers.iter().enumerate() {
        engine.handle(Input::Backend(BackendId(number.to_string()), Arc::clone(offer)), now);
    }
    now.elapsed = Duration::from_secs(10);
    engine.handle(Input::Tick, now);
    let current = network.service_periods().first().context("the network has no time period")?.period;
    let mut outputs = std::iter::from_fn(|| engine.poll_output());
    let text = outputs.find_map(|output| match output {
        Output::Upload { period, descriptor, .. } if period == current => Some(descriptor.to_string()),
        _ => None,
    });
    Ok(Sample { text: text.context("the engine did not upload a descriptor")?, address: key.address() })
}

/// Checks that both descriptors have the same lines with the same lengths in every layer, except
/// for the digits of the revision counter.
pub fn compare(merged: &Sample, stock: &Sample, client: Option<&ClientSecretKey>) -> Result<()> {
    let open = |sample: &Sample| -> Result<[String; 3]> {
        let (layer1, layer2) = UncheckedDescriptor::parse(&sample.text)?.open_layers(client, &sample.address)?;
        Ok([sample.text.clone(), layer1, layer2])
    };
    let (merged, stock) = (open(merged)?, open(stock)?);
    for (layer, (merged, stock)) in ["the outer layer", "layer 1", "layer 2"].iter().zip(merged.iter().zip(&stock)) {
        let (ours, tors) = (masked(merged), masked(stock));
        for (number, (ours, tors)) in ours.lines().zip(tors.lines()).enumerate() {
            ensure!(ours == tors, "{layer}, line {}: ours is {ours:?}, the stock tor's is {tors:?}", number + 1);
        }
        ensure!(ours == tors, "{layer}: ours has {} bytes, the stock tor's has {}", ours.len(), tors.len());
        let (ours, tors) = (certificates(merged)?, certificates(stock)?);
        ensure!(
            ours.len() == tors.len(),
            "{layer}: ours has {} certificates, the stock tor's has {}",
            ours.len(),
            tors.len()
        );
        for ((ours, ours_expire), (tors, tors_expire)) in ours.iter().zip(&tors) {
            ensure!(ours == tors, "{layer}: our certificate begins with {ours:?}, the stock tor's with {tors:?}");
            ensure!(
                ours_expire.abs_diff(*tors_expire) <= 1,
                "{layer}: our certificate expires at another time than the stock tor's"
            );
        }
    }
    Ok(())
}

/// Masks each character of the parts that necessarily differ: keys, certificates, encrypted data
/// and signatures.
fn masked(text: &str) -> String {
    let mut in_object = false;
    let mut masked = String::new();
    for line in text.split_inclusive('\n') {
        let words = |count: usize| line.match_indices(' ').nth(count - 1).map_or(line.len(), |(at, _)| at);
        let keep = match line.split([' ', '\n']).next().unwrap_or_default() {
            // The number of digits depends on the time since the shared random value appeared.
            "revision-counter" => {
                masked.push_str("revision-counter\n");
                continue;
            }
            _ if line.starts_with("-----BEGIN") => {
                in_object = true;
                line.len()
            }
            _ if line.starts_with("-----END") => {
                in_object = false;
                line.len()
            }
            _ if in_object => 0,
            "desc-auth-ephemeral-key" | "auth-client" | "signature" | "introduction-point" => words(1),
            "onion-key" | "enc-key" => words(2),
            _ => line.len(),
        };
        let (kept, random) = line.split_at(keep);
        masked.push_str(kept);
        masked.extend(random.chars().map(|c| if c.is_ascii_alphanumeric() || "+/".contains(c) { '#' } else { c }));
    }
    masked
}

/// Returns, for each certificate, the bytes that must match and the expiry time in hours. The bytes
/// are the certificate's version, type, key type, number of extensions, header of the first
/// extension, and total length.
fn certificates(text: &str) -> Result<Vec<(Vec<u8>, u32)>> {
    let objects = text.split("-----BEGIN ED25519 CERT-----\n").skip(1);
    let read = |object: &str| {
        let base64: String = object.lines().take_while(|line| !line.starts_with("-----END")).collect();
        let bytes = BASE64.decode(base64.as_bytes())?;
        let hours = bytes.get(2..6).context("a certificate is too short")?.try_into().map(u32::from_be_bytes)?;
        let head = [&bytes[..2], &bytes[6..7], bytes.get(39..44).context("a certificate is too short")?].concat();
        Ok(([head, vec![u8::try_from(bytes.len())?]].concat(), hours))
    };
    objects.map(read).collect()
}
