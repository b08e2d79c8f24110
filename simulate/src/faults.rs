//! Faults at random times.

use std::time::Duration;

use onionbalance_operator::consensus::Fingerprint;

use crate::hsdirs::Health;
use crate::publishers::Message;
use crate::time::{DAY, HOUR, MINUTE, between, chance, log_between, poisson};
use crate::world::{Event, World};

/// A fault. A number or a fingerprint names what it has hit; each fault begins with the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    SilentHsdir(Option<Fingerprint>),
    RejectingHsdir(Option<Fingerprint>),
    ForgetfulHsdir,
    ServerAway,
    TorAway(usize),
    ClockStep(usize),
    PublisherKilled(usize),
    BackendStalled(usize),
    BackendReplaced,
}

impl Fault {
    /// Schedules the first fault of each kind.
    pub(crate) fn begin_all(world: &mut World) {
        for fault in [
            Self::SilentHsdir(None),
            Self::RejectingHsdir(None),
            Self::ForgetfulHsdir,
            Self::ServerAway,
            Self::TorAway(0),
            Self::ClockStep(0),
            Self::PublisherKilled(0),
            Self::BackendStalled(0),
            Self::BackendReplaced,
        ] {
            let first = HOUR * 2 + poisson(fault.interval(), &mut world.rng);
            world.after(first, Event::Fault(fault));
        }
    }

    /// Returns the average time between two faults of this kind.
    fn interval(self) -> Duration {
        match self {
            Self::SilentHsdir(_) => HOUR * 4,
            Self::RejectingHsdir(_) | Self::BackendReplaced => HOUR * 8,
            Self::ForgetfulHsdir => HOUR * 6,
            Self::ServerAway | Self::ClockStep(_) | Self::PublisherKilled(_) => DAY * 2,
            Self::TorAway(_) | Self::BackendStalled(_) => DAY,
        }
    }
}

impl World {
    pub(crate) fn begin(&mut self, fault: Fault) {
        let next = poisson(fault.interval(), &mut self.rng);
        self.after(next, Event::Fault(fault));
        self.figures.faults += 1;
        match fault {
            Fault::SilentHsdir(_) => self.impair_hsdir(Health::Silent),
            Fault::RejectingHsdir(_) => self.impair_hsdir(Health::Rejects),
            Fault::ForgetfulHsdir => {
                if let Some(hsdir) = self.any_hsdir() {
                    self.hsdirs.forget(hsdir, self.now);
                }
            }
            Fault::ServerAway => {
                self.server.away = true;
                self.disturb(fault, MINUTE, HOUR * 2);
            }
            Fault::TorAway(_) => {
                let index = self.any(self.plan.publishers);
                self.turn(index, Message::Tor(false));
                self.disturb(Fault::TorAway(index), Duration::from_secs(5), MINUTE * 20);
            }
            Fault::ClockStep(_) => self.step_clock(),
            Fault::PublisherKilled(_) => {
                let index = self.any(self.plan.publishers);
                if let Some(publisher) = self.publishers.get_mut(index) {
                    publisher.running = false;
                }
                self.disturb(Fault::PublisherKilled(index), Duration::from_secs(5), MINUTE * 5);
            }
            Fault::BackendStalled(_) => {
                let index = self.any(self.plan.backends);
                if self.backends.get(index).is_some_and(|backend| !backend.stalled) {
                    self.stall(index);
                    let lasts = log_between(MINUTE * 2, HOUR * 60, &mut self.rng);
                    self.after(lasts, Event::Mend(Fault::BackendStalled(index)));
                }
            }
            Fault::BackendReplaced => {
                let index = self.any(self.plan.backends);
                if self.backends.get(index).is_some_and(|backend| !backend.stalled) {
                    self.stall(index);
                    self.start_backend(index);
                }
            }
        }
    }

    pub(crate) fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::SilentHsdir(Some(hsdir)) | Fault::RejectingHsdir(Some(hsdir)) => {
                self.set_health(hsdir, Health::Answers);
            }
            Fault::ServerAway => self.server.away = false,
            Fault::TorAway(index)
                if self.publishers.get(index).is_some_and(|publisher| publisher.running && !publisher.tor) =>
            {
                self.turn(index, Message::Tor(true));
                self.show_consensus(index);
            }
            Fault::ClockStep(index) => self.set_clock(index, 0),
            Fault::PublisherKilled(index) if self.publishers.get(index).is_some_and(|publisher| !publisher.running) => {
                self.restart(index);
            }
            Fault::BackendStalled(index) if self.backends.get(index).is_some_and(|backend| backend.stalled) => {
                self.start_backend(index);
            }
            _ => {}
        }
        self.steady_since = self.now;
    }

    /// Schedules the end of a fault that disturbs the publishers.
    fn disturb(&mut self, fault: Fault, shortest: Duration, longest: Duration) {
        let lasts = log_between(shortest, longest, &mut self.rng);
        self.steady_since = self.now;
        self.after(lasts, Event::Mend(fault));
    }

    /// Returns a random HSDir of a random time period, by the newest consensus.
    fn any_hsdir(&mut self) -> Option<Fingerprint> {
        let view = self.relays.newest()?;
        let all: Vec<Fingerprint> = view.responsible.iter().flat_map(|(_, hsdirs)| hsdirs.iter().copied()).collect();
        let index = self.any(all.len());
        all.get(index).copied()
    }

    fn impair_hsdir(&mut self, health: Health) {
        let Some(hsdir) = self.any_hsdir().filter(|hsdir| self.hsdirs.health(hsdir) == Health::Answers) else {
            return;
        };
        self.set_health(hsdir, health);
        let (fault, longest) = match health {
            Health::Silent => (Fault::SilentHsdir(Some(hsdir)), HOUR * 4),
            _ => (Fault::RejectingHsdir(Some(hsdir)), HOUR),
        };
        let lasts = log_between(MINUTE / 2, longest, &mut self.rng);
        self.after(lasts, Event::Mend(fault));
    }

    /// Sets the wall clock of a publisher wrong for some time: by minutes, and sometimes by hours.
    fn step_clock(&mut self) {
        let index = self.any(self.plan.publishers);
        let longest = if chance(0.3, &mut self.rng) { HOUR * 2 } else { MINUTE * 5 };
        let ahead = between(Duration::from_secs(10), longest, &mut self.rng).as_secs();
        let ahead = i64::try_from(ahead).unwrap_or_default();
        let ahead = if chance(0.5, &mut self.rng) { ahead } else { -ahead };
        self.set_clock(index, ahead);
        self.disturb(Fault::ClockStep(index), MINUTE, HOUR * 3);
    }

    fn set_clock(&mut self, index: usize, ahead: i64) {
        if let Some(publisher) = self.publishers.get_mut(index) {
            publisher.skew = ahead;
        }
        self.wake(index);
    }
}
