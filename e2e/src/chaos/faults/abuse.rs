//! A client that abuses one circuit next to honest traffic, first without and then with limits. At
//! last, the app has the circuit of such a client closed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::LocalBoxFuture;
use tokio::time::{Instant, sleep};

use crate::chance::percent_larger;
use crate::chaos::abuser::Abuser;
use crate::chaos::clients::ResettableClient;
use crate::chaos::closing::{HELD, close_by_request};
use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::limit::{Bound, Limit, shares};
use crate::chaos::metrics;
use crate::chaos::needs::Needs;
use crate::chaos::observed::{Moment, Observed};
use crate::chaos::request::ServiceKind;
use crate::chaos::stage::Stage;
use crate::wait::{Seen, until};

/// A client that abuses one circuit, without limits and then with limits of circuits.
#[derive(Debug)]
pub struct Abuse;

/// The time for which the honest requests are observed without an abuser.
const CALM: Duration = Duration::from_secs(30);
/// The time for which a client abuses the service.
const ABUSED: Duration = Duration::from_secs(50);
/// The time after which clients have noticed that the backends are new.
const SETTLED: Duration = Duration::from_secs(20);
const ROLLOUT: Duration = Duration::from_secs(240);
/// The limits of circuits. An honest client of this test has at most a few streams.
const LIMITS: &str = r#"{"openStreams":32,"streamsPerSecond":5,"streamBurst":50,"bytesPerSecond":1000000}"#;
const CLOSURES: &str = "onionbalance_agent_circuit_closures_total{cause=\"limits\"}";

impl Fault for Abuse {
    fn name(&self) -> &'static str {
        "abuse"
    }

    fn about(&self) -> &'static str {
        "one client abuses its circuit, first without and then with limits of circuits; then the app has a circuit closed"
    }

    fn needs(&self) -> Needs {
        Needs { quiet: Some(Duration::from_secs(200)), ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            Ok(ActiveFault::new(Instant::now(), BTreeSet::new()).with_findings(async move {
                let mut client = take_client(stage).await?;
                let mut moments = calm_then_abused(stage, &mut client, "abuser without limits").await?.to_vec();
                set_limits(stage, LIMITS, r#","proxyProtocol":"v1""#).await?;
                sleep(SETTLED).await;
                moments.extend(calm_then_abused(stage, &mut client, "abuser with limits").await?);
                let closed = metrics::of_backends(stage, CLOSURES).await?;
                let mut figures = vec![Figure::new("closed", closed, "circuits")];
                figures.extend(close_by_request(stage, &client).await?);
                stage.clients.give_back(client);
                set_limits(stage, "null", "").await?;
                Ok(Findings { figures, moments })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let [unlimited, limited] = [0, 3].map(|first: usize| seen.moments.get(first..first + 3));
        let figures = [("unlimited", unlimited), ("honest", limited)].map(|(word, moments)| {
            let Some([calm, abused, end]) = moments else { return Vec::new() };
            let ratios = |from: &Moment, to: &Moment| seen.requests.ratios(from.at, to.at);
            let slower = percent_larger(&ratios(calm, abused), &ratios(abused, end));
            let counts = seen.requests.began(ServiceKind::Ours, abused.at, end.at);
            vec![
                Figure::count(format!("{word}_failed"), counts.failed + counts.cut, "requests"),
                Figure::new(format!("{word}_slow_percent"), f64::from(slower), "%"),
            ]
        });
        figures.concat()
    }

    fn limits(&self) -> Vec<Limit> {
        // The abuser's tor, the relays and the clients share the machine with our service, and slow
        // the plain onion service down, too. Both are compared with the same requests.
        let own = [
            Limit::new("honest_failed", Bound::AtMost(0.0)),
            Limit::new("honest_slow_percent", Bound::AtMost(0.0)),
            Limit::new("closed", Bound::AtLeast(1.0)),
            // Otherwise, the abuser is too weak to show what the limits prevent.
            Limit::new("unlimited_slow_percent", Bound::AtLeast(50.0)),
            Limit::new("asked_ended", Bound::AtLeast(f64::from(HELD))),
            Limit::new("asked_harmed", Bound::AtMost(0.0)),
        ];
        // The requests during the abuse without limits count here, too.
        [&own[..], &shares(5.0, 25.0)].concat()
    }
}

/// Observes honest requests without the abuser and then with it. Returns the beginnings of both
/// parts, and the end.
async fn calm_then_abused(stage: &Stage, client: &mut ResettableClient, isolation: &str) -> Result<[Moment; 3]> {
    let moment = || Moment { at: Instant::now(), points: BTreeSet::new() };
    let calm = moment();
    client.forget().await?;
    sleep(CALM).await;
    let abused = moment();
    Abuser { socks: client.socks(), onion: &stage.onions.ours, isolation }.abuse(abused.at + ABUSED).await;
    Ok([calm, abused, moment()])
}

/// Takes a client that makes no honest requests meanwhile.
async fn take_client(stage: &Stage) -> Result<ResettableClient> {
    until("a client is idle", Duration::from_secs(60), async || {
        Ok(stage.clients.take().map_or_else(|| Seen::not_yet("all are in use"), Seen::Yes))
    })
    .await
}

/// Sets the limits of circuits and further settings of the port, and waits until all backends are
/// new.
async fn set_limits(stage: &Stage, limits: &str, port: &str) -> Result<()> {
    let before: BTreeSet<String> = stage.service.backends().await?.into_iter().map(|backend| backend.uid).collect();
    stage.set_port(port, limits).await?;
    until("all backends are new", ROLLOUT, async || {
        let now = stage.service.backends().await?;
        let new = now.iter().filter(|backend| !before.contains(&backend.uid)).count();
        let done = new == before.len() && now.len() == new;
        Ok(if done { Seen::Yes(()) } else { Seen::NotYet(format!("{new} of {} backends are new", now.len())) })
    })
    .await?;
    stage.service.wait_published(before.len(), ROLLOUT).await.context("the new backends are not published")?;
    Ok(())
}
