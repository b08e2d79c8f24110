//! Checks a service with more introduction points than fit into one descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream;
use onionbalance_e2e::chance::{fewest_reached, most_failures};
use onionbalance_e2e::descriptor::Descriptor;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_e2e::torcontrol::Control;
use onionbalance_e2e::wait::{Seen, until};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::NETWORK;
use crate::data_plane::DataPlane;

/// The number of relays. The authorities call about half of them Stable, and only these become
/// introduction points. Half of the relays is roughly the maximum number of points in a descriptor.
const RELAYS: u16 = 38;
/// The maximum number of points in a descriptor.
const POINTS: usize = 20;
const BACKENDS: usize = 60;
/// The number of HSDirs from which clients fetch the descriptor: three for each replica.
const ASKED: usize = 6;
const FETCHES: usize = 300;
const CLIENTS: usize = 30;
/// The time after which tor must have acted on NEWNYM.
const NEWNYM: Duration = Duration::from_secs(30);
/// The number of clients that work concurrently. The whole network shares the few processors of
/// this machine.
const AT_ONCE: usize = 6;
/// The proportion of fetches that may fail, which is the limit of `make chaos` for most faults. A
/// new time period may begin during the test, and every backend then gets new points.
const FAILED: f64 = 0.005;

#[tokio::test]
async fn clients_can_reach_all_of_sixty_backends() -> Result<()> {
    let _network = NETWORK.lock().await;
    let start = Instant::now();
    let plane = DataPlane::start_on(RELAYS, BACKENDS).await?;
    eprintln!("{BACKENDS} backends are running after {:.0} s", start.elapsed().as_secs_f64());
    let outcome = scenario(&plane, start).await;
    plane.end(outcome)
}

async fn scenario(plane: &DataPlane, start: Instant) -> Result<()> {
    let asker = plane.client().await?;
    let before = wait_shown(plane, &asker).await?;
    eprintln!("the descriptors contain all backends after {:.0} s", start.elapsed().as_secs_f64());

    let clients = clients(plane).await?;
    eprintln!("{CLIENTS} clients are running after {:.0} s", start.elapsed().as_secs_f64());
    let few = Semaphore::new(AT_ONCE);
    let pages = try_join_all(clients.iter().map(|client| fetches(client, plane.onion(), &few))).await?.concat();
    let served: Vec<usize> = pages.iter().flatten().copied().collect();
    let failed = pages.len() - served.len();
    let reached = served.iter().collect::<BTreeSet<_>>().len();
    println!("figure distinct_fetches {} fetches", pages.len());
    println!("figure distinct_fetches_failed {failed} fetches");
    println!("figure distinct_backends_reached {reached} backends");
    eprintln!("finished all fetches after {:.0} s", start.elapsed().as_secs_f64());

    // In a new time period, the backends have new points, and possibly other shares. The smaller of
    // a backend's shares is on the safe side.
    let after = wait_shown(plane, &asker).await?;
    let chances: Vec<f64> = before.iter().zip(&after).map(|(before, after)| before.min(*after)).collect();
    let fewest = fewest_reached(&chances, u32::try_from(served.len())?);
    println!("figure distinct_backends_reached_least {fewest} backends");
    ensure!(reached >= fewest, "only {reached} of {BACKENDS} backends were reached, but at least {fewest} should be");
    ensure!(failed <= most_failures(FETCHES, FAILED), "{failed} of {FETCHES} fetches failed");
    Ok(())
}

/// Waits until the HSDirs' descriptors contain all backends. Returns, for each backend, the
/// probability that a client with a new descriptor picks one of the backend's points.
async fn wait_shown(plane: &DataPlane, asker: &TorClient) -> Result<Vec<f64>> {
    until("the HSDirs' descriptors contain all backends", Duration::from_secs(240), async || {
        plane.check()?;
        let held = plane.newest_descriptors(asker).await?;
        match distinct(&held)? {
            Seen::Yes(()) => all_backends_are_shown(plane, &held).await,
            Seen::NotYet(why) => Ok(Seen::NotYet(why)),
        }
    })
    .await
}

/// Reports whether the HSDirs hold six different descriptors, all with the same number of points.
fn distinct(held: &BTreeMap<String, Descriptor>) -> Result<Seen<()>> {
    let sets: BTreeSet<BTreeSet<&str>> = held.values().map(Descriptor::auth_keys).collect();
    for descriptor in held.values() {
        let relays: BTreeSet<_> = descriptor.points.iter().map(|point| &point.relay).collect();
        ensure!(relays.len() == descriptor.points.len(), "a relay occurs twice in a descriptor: {descriptor:?}");
        ensure!(
            relays.len() <= POINTS && descriptor.bytes < 50_000,
            "clients would reject this descriptor: {descriptor:?}"
        );
    }
    let sizes: BTreeSet<usize> = held.values().map(|descriptor| descriptor.points.len()).collect();
    let done = sets.len() == ASKED && sizes.len() == 1 && held.len() > ASKED;
    let why = format!(
        "{} HSDirs hold {} different descriptors with the same counter and {sizes:?} points",
        held.len(),
        sets.len()
    );
    Ok(if done { Seen::Yes(()) } else { Seen::NotYet(why) })
}

/// Checks the HSDirs' descriptors: every backend appears in at least one of them, every point
/// currently belongs to a backend, each descriptor is full, and the backends' shares are fair. A
/// descriptor is full if it has 20 points, or a point at every relay that any backend uses as an
/// introduction point. Returns, for each backend, the probability that a client with a new
/// descriptor picks one of the backend's points.
async fn all_backends_are_shown(plane: &DataPlane, held: &BTreeMap<String, Descriptor>) -> Result<Seen<Vec<f64>>> {
    let own: Vec<Descriptor> = stream::iter(0..BACKENDS)
        .map(|backend| plane.backends_descriptor(backend))
        .buffered(4)
        .filter_map(async |descriptor| descriptor.ok().flatten())
        .collect()
        .await;
    let places = Places::new(&own, held);
    let shares: Vec<usize> = (0..own.len()).map(|backend| places.share(backend)).collect();
    let shown = shares.iter().filter(|share| **share > 0).count();
    let (least, most) =
        (shares.iter().min().copied().unwrap_or_default(), shares.iter().max().copied().unwrap_or_default());
    let relays = places.relays();
    let full = places.descriptors.iter().all(|descriptor| descriptor.len() == relays.len().min(POINTS));
    let unfair = (0..own.len()).map(|backend| places.could_gain_from(backend)).max().unwrap_or_default();
    if shown == BACKENDS && places.all_current && full && unfair <= 1 {
        println!("figure distinct_descriptors {} descriptors", places.descriptors.len());
        println!("figure distinct_relays {} relays", relays.len());
        println!("figure distinct_points_published {} points", places.points());
        println!("figure distinct_backends_published {shown} backends");
        println!("figure distinct_points_least {least} points");
        println!("figure distinct_points_most {most} points");
        return Ok(Seen::Yes((0..BACKENDS).map(|backend| places.chance(backend)).collect()));
    }
    Ok(Seen::not_yet(format!(
        "{shown} of {BACKENDS} backends are in the descriptors, {least} to {most} times; a backend could take a place \
         from one that has {unfair} more; all points are current: {}; there are points at {} relays; all descriptors \
         are full: {full}",
        places.all_current,
        relays.len()
    )))
}

/// The places of the backends in the distinct descriptors.
struct Places<'a> {
    /// The relays and authentication keys of each backend's own points.
    own: Vec<BTreeMap<&'a str, &'a str>>,
    /// For each distinct descriptor, a map from each of its relays to the backend whose point is
    /// there.
    descriptors: Vec<BTreeMap<&'a str, usize>>,
    /// True if every published point currently belongs to a backend.
    all_current: bool,
}

impl<'a> Places<'a> {
    fn new(own: &'a [Descriptor], held: &'a BTreeMap<String, Descriptor>) -> Self {
        let by_relay = |descriptor: &'a Descriptor| -> BTreeMap<&'a str, &'a str> {
            descriptor.points.iter().map(|point| (point.relay.as_str(), point.auth_key.as_str())).collect()
        };
        let own: Vec<_> = own.iter().map(by_relay).collect();
        let owners: BTreeMap<&str, usize> = own
            .iter()
            .enumerate()
            .flat_map(|(backend, points)| points.values().map(move |key| (*key, backend)))
            .collect();
        let distinct: BTreeSet<_> = held.values().map(by_relay).collect();
        let all_current = distinct.iter().flat_map(BTreeMap::values).all(|key| owners.contains_key(key));
        let holders = |points: &BTreeMap<&'a str, &'a str>| -> BTreeMap<&'a str, usize> {
            points.iter().filter_map(|(relay, key)| Some((*relay, *owners.get(key)?))).collect()
        };
        Self { descriptors: distinct.iter().map(holders).collect(), own, all_current }
    }

    fn relays(&self) -> BTreeSet<&str> {
        self.own.iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// Returns the number of distinct points in all descriptors.
    fn points(&self) -> usize {
        self.descriptors.iter().flatten().collect::<BTreeSet<_>>().len()
    }

    /// Returns the number of a backend's places in all descriptors.
    fn share(&self, backend: usize) -> usize {
        self.descriptors.iter().flat_map(BTreeMap::values).filter(|holder| **holder == backend).count()
    }

    /// Returns the probability that a client picks one of a backend's points. The client picks any
    /// of the HSDirs' descriptors, which have equally many points, and then any point.
    fn chance(&self, backend: usize) -> f64 {
        let holders = self.descriptors.iter().flat_map(BTreeMap::values);
        let (own, all) =
            holders.fold((0.0, 0.0), |(own, all), holder| (own + f64::from(*holder == backend), all + 1.0));
        own / all
    }

    /// Returns the backends whose places this backend could take with one of its points. In a
    /// descriptor that names the point's relay, the point could take only the place at this relay.
    /// In any other descriptor, it could take any place.
    fn could_replace(&self, backend: usize) -> BTreeSet<usize> {
        let places = self.own[backend].keys().flat_map(|relay| self.descriptors.iter().map(move |held| (relay, held)));
        places
            .flat_map(|(relay, held)| held.get(relay).map_or_else(|| held.values().collect(), |holder| vec![holder]))
            .copied()
            .collect()
    }

    /// Returns the difference between the largest share from which this backend could gain a place
    /// and this backend's own share. The backend could gain a place directly, or through a chain of
    /// backends in which each takes a place of the next. A difference of two or more is unfair. A
    /// larger difference between backends that no chain connects is not unfair: a descriptor names
    /// a relay only once, so the difference results from the relays that tor happened to choose.
    fn could_gain_from(&self, backend: usize) -> usize {
        let (mut reached, mut next) = (BTreeSet::from([backend]), vec![backend]);
        while let Some(backend) = next.pop() {
            next.extend(self.could_replace(backend).into_iter().filter(|other| reached.insert(*other)));
        }
        let richest = reached.into_iter().map(|other| self.share(other)).max().unwrap_or_default();
        richest - self.share(backend)
    }
}

/// Starts the clients, a few at a time.
async fn clients(plane: &DataPlane) -> Result<Vec<TorClient>> {
    let mut clients = Vec::new();
    while clients.len() < CLIENTS {
        clients.extend(try_join_all((0..AT_ONCE).map(|_| plane.client())).await?);
    }
    Ok(clients)
}

/// Fetches a page several times, each time with a newly fetched descriptor. Returns, for each
/// attempt, the number of the backend that answered, or `None` if the attempt failed.
async fn fetches(client: &TorClient, onion: &str, few: &Semaphore) -> Result<Vec<Option<usize>>> {
    let connect = async || Control::open(&client.tor().control_socket(), &client.tor().cookie()).await;
    let (mut control, mut signals) = (connect().await?, connect().await?);
    ensure!(signals.command("SETEVENTS SIGNAL").await?, "tor rejected SETEVENTS");
    let cached = format!("GETINFO hs/client/desc/id/{}", onion.trim_end_matches(".onion"));
    let (mut pages, mut was_cached) = (Vec::new(), false);
    for number in 0..FETCHES / CLIENTS {
        // NEWNYM makes tor drop its circuits, its descriptors and its list of HSDirs that have
        // failed, but at most once in ten seconds. If the signal comes too early, tor replies OK
        // and acts on the signal later.
        ensure!(control.command("SIGNAL NEWNYM").await?, "tor rejected NEWNYM");
        timeout(NEWNYM, signals.event("SIGNAL NEWNYM")).await.context("tor did not act on NEWNYM")??;
        ensure!(!control.command(&cached).await?, "the client still has the descriptor");
        let _turn = few.acquire().await?;
        let page = client.fetch(onion, &number.to_string()).await;
        match &page {
            Err(error) => eprintln!("a fetch failed: {error:#}"),
            // At the end of a time period, tor drops the descriptor by itself.
            Ok(_) => was_cached |= control.command(&cached).await?,
        }
        let page = page
            .ok()
            .map(|page| page.trim().parse().with_context(|| format!("the page is not a backend's number: {page:?}")));
        pages.push(page.transpose()?);
    }
    ensure!(
        was_cached || pages.iter().all(Option::is_none),
        "the client must cache the descriptor, or the check that it was dropped proves nothing"
    );
    Ok(pages)
}
