//! HSDirs that stay silent for longer than a round of attempts.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::{LocalBoxFuture, try_join_all};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::chaos::circuits::FailedCircuits;
use crate::chaos::fault::{ActiveFault, Fault, Findings};
use crate::chaos::figure::Figure;
use crate::chaos::hops::control_of;
use crate::chaos::limit::{Bound, Limit};
use crate::chaos::needs::Needs;
use crate::chaos::observed::Observed;
use crate::chaos::pods::{PodProgram, processes};
use crate::chaos::request::ServiceKind;
use crate::chaos::stage::Stage;
use crate::steps::say;
use crate::tornet::period::{LEARNT, since_new_period, wall_clock};
use crate::tornet::process_name;
use crate::tornet::torrc::PERIOD_MINUTES;

/// Two relays that end, and later two others that freeze, each for ten minutes.
///
/// In this network, services publish for a new time period every eight minutes. Each silence begins
/// just before, so that uploads to silent HSDirs are due, and nothing else gives a publisher a
/// reason to upload. The next period has other HSDirs, of which a publisher cannot know yet that
/// they are silent. Therefore circuits are counted only if neither the silence nor the publication
/// for a new period began within the preceding five minutes.
///
/// A frozen relay keeps its connections, so tor does not notice that an introduction circuit
/// through this relay is dead. Tor tells the agent only the points of the older of its two
/// descriptors, so our service keeps such points for half a period longer than the plain one
/// (decision 2). Requests are therefore compared while the relays are dead.
#[derive(Debug)]
pub struct SilentHsdirs;

/// The number of relays that are silent at a time.
const SILENT: u8 = 2;
/// The time for which they are silent.
const LASTS: Duration = Duration::from_secs(600);
/// The time in which a publisher may try again and again.
const ROUND: Duration = Duration::from_secs(300);
/// The time from the start of a silence to the next time period. The relays may still be alive for
/// a moment when the period begins.
const LEAD: Duration = Duration::from_secs(20);
/// The number of circuits that may fail later, even if none of the plain service does. HSDirs of
/// the first silence end their rest at a random time, which can be in the second silence, and the
/// upload's circuits can lead through a frozen relay. A publisher that lets no HSDir rest fails far
/// more often.
const RETRIED: f64 = 10.0;
/// The number of false alarms by chance. In so long a silence, about seventy probes are made, and
/// both attempts of a probe can run into relays that were alive a moment ago.
const FALSE_ALARMS: f64 = 1.0;
/// The additional share of our requests that may fail or be slow, in percent of all requests.
/// Relays are frozen during a third of the run, when any request may fail.
const WHILE_FROZEN: f64 = 35.0;
/// The interval between requests. A run takes about 35 minutes.
const EVERY: Duration = Duration::from_secs(1);

impl Fault for SilentHsdirs {
    fn name(&self) -> &'static str {
        "silent_hsdirs"
    }

    fn about(&self) -> &'static str {
        "two relays are killed for 10 minutes, then two others are frozen for 10 minutes (about 35 minutes)"
    }

    fn needs(&self) -> Needs {
        Needs { every: EVERY, quiet: None, silent_hsdirs: SILENT * 2, ..Needs::default() }
    }

    fn strike<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<ActiveFault<'a>>> {
        Box::pin(async move {
            let ours = watch_leader(stage).await?;
            let plain = stage.plain().watch_circuits().await?;
            until_a_period_is_near().await?;
            let killed = others(stage, &[]).await?;
            let (at, wall) = (Instant::now(), wall_clock()?);
            try_join_all(killed.iter().map(|relay| stage.processes.kill(relay))).await?;
            Ok(ActiveFault::new(at, BTreeSet::new()).with_findings(async move {
                sleep_until(at + LASTS).await;
                stage.network.up().await?;
                until_a_period_is_near().await?;
                let frozen = others(stage, &killed).await?;
                let second = Instant::now();
                let signal = |signal| frozen.iter().try_for_each(|relay| stage.processes.signal(relay, signal));
                signal(Signal::STOP)?;
                sleep_until(second + LASTS).await;
                signal(Signal::CONT)?;
                let since_new_period = |time: Instant| since_new_period(wall + time.duration_since(at));
                let mut figures = Vec::new();
                for (prefix, watch) in [("", &ours), ("plain_", &plain)] {
                    let times = watch.times()?;
                    let [early, late] = counts(&times, [at, second], since_new_period);
                    figures.push(Figure::count(format!("{prefix}circuits"), late, "circuits"));
                    figures.push(Figure::count(format!("{prefix}first_circuits"), early, "circuits"));
                }
                Ok(Findings { figures, ..Findings::default() })
            }))
        })
    }

    fn figures(&self, seen: &Observed) -> Vec<Figure> {
        let mut figures = vec![seen.fewest_points()];
        for (prefix, service) in [("", ServiceKind::Ours), ("plain_", ServiceKind::Plain)] {
            let counts = seen.requests.began(service, seen.at, seen.at + LASTS);
            figures.push(Figure::count(format!("{prefix}killed_failed"), counts.failed, "requests"));
            figures.push(Figure::count(format!("{prefix}killed_slow"), counts.slow, "requests"));
        }
        figures
    }

    fn limits(&self) -> Vec<Limit> {
        let own = [
            // Without a failed circuit in the first minutes, the run would prove nothing.
            Limit::new("first_circuits", Bound::AtLeast(1.0)),
            Limit::new("plain_first_circuits", Bound::AtLeast(1.0)),
            Limit::new("circuits", Bound::TimesPlain(1.5, RETRIED)),
            Limit::new("killed_failed", Bound::AbovePlainByChance(0.5)),
            Limit::new("killed_slow", Bound::AbovePlainByChance(5.0)),
            Limit::new("failed", Bound::AbovePlainByChance(WHILE_FROZEN)),
            Limit::new("cut", Bound::AbovePlain(0.5)),
            Limit::new("slow", Bound::AbovePlainByChance(WHILE_FROZEN)),
        ];
        own.into()
    }

    fn false_alarms(&self) -> f64 {
        FALSE_ALARMS
    }
}

/// Returns the processes of relays that are no guard now and that have not been killed.
async fn others(stage: &Stage, killed: &[String]) -> Result<Vec<String>> {
    let relays = stage.relays_but_guards().await?;
    let names = relays.values().map(|name| process_name(name)).filter(|name| !killed.contains(name));
    let chosen: Vec<_> = names.take(SILENT.into()).collect();
    ensure!(chosen.len() == usize::from(SILENT), "too few relays are no guard of either service: {chosen:?}");
    Ok(chosen)
}

/// Counts the circuits of the tor through which the leader publishes.
async fn watch_leader(stage: &Stage) -> Result<FailedCircuits> {
    let (_, uid) = stage.leader().await?;
    let tor = *processes(&uid, PodProgram::Tor)?.first().context("the leader's tor does not run")?;
    let (socket, cookie) = control_of(tor);
    FailedCircuits::watch(&socket, &cookie).await
}

/// Waits until a new time period is about to begin.
async fn until_a_period_is_near() -> Result<()> {
    const PERIOD: Duration = Duration::from_secs(60 * PERIOD_MINUTES as u64);
    let near = PERIOD.saturating_sub(LEAD);
    let since = since_new_period(wall_clock()?);
    let wait = near.checked_sub(since).unwrap_or((PERIOD + near).saturating_sub(since));
    say(&format!("waiting {} s until a new time period is about to begin", wait.as_secs()));
    sleep(wait).await;
    Ok(())
}

/// Returns how many times lie in the first minutes of a silence, and how many later in the silence
/// and not in the first minutes of a time period.
fn counts(times: &[Instant], silences: [Instant; 2], since_new_period: impl Fn(Instant) -> Duration) -> [usize; 2] {
    let within = |at: Instant, from: Duration, to: Duration| {
        silences.iter().any(|start| (*start + from..*start + to).contains(&at))
    };
    let early = times.iter().filter(|at| within(**at, Duration::ZERO, ROUND)).count();
    let is_late = |at: Instant| within(at, ROUND, LASTS) && since_new_period(at) >= LEARNT + ROUND;
    [early, times.iter().filter(|at| is_late(**at)).count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_minutes_of_each_silence_and_of_each_period_are_counted_apart() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        // The silence began 20 s before the period.
        let since = |time: Instant| Duration::from_secs((time.duration_since(start).as_secs() + 460) % 480);
        let times = [10, 299, 300, 364, 365, 499, 500, 599].map(at);
        assert_eq!(counts(&times, [at(0), at(960)], since), [2, 2]);
        let times = [959, 960, 1259, 1260, 1324, 1325, 1459, 1460, 1559].map(at);
        assert_eq!(counts(&times, [at(0), at(960)], since), [2, 2]);
    }
}
