//! The faults.

mod arrival;
mod authorities;
mod backend;
mod control_plane;
mod frontend;
mod replicas;
mod rotations;

use self::arrival::{ApplyToFetch, NewBackend};
use self::authorities::AuthoritiesDown;
use self::backend::{Backend, How};
use self::control_plane::{ControlPlane, HsDirsDown, OperatorDown, Programs};
use self::frontend::{Frontend, How as FrontendHow};
use self::replicas::{PodRestart, RollingRestart, ScaleDown};
use self::rotations::Rotations;
use super::fault::Fault;

/// All of them, in the order in which they are made.
pub fn all() -> Vec<Box<dyn Fault>> {
    vec![
        Box::new(Backend(How::TorKill)),
        Box::new(Backend(How::TorFreeze)),
        Box::new(Backend(How::AgentKill)),
        Box::new(Backend(How::AgentFreeze)),
        Box::new(Backend(How::PodDelete)),
        Box::new(Backend(How::LinkCut)),
        Box::new(PodRestart),
        Box::new(RollingRestart),
        Box::new(ScaleDown),
        Box::new(NewBackend),
        Box::new(ApplyToFetch),
        Box::new(Frontend(FrontendHow::TorKill)),
        Box::new(Frontend(FrontendHow::TorFreeze)),
        Box::new(Frontend(FrontendHow::PublisherKill)),
        Box::new(Frontend(FrontendHow::PublisherFreeze)),
        Box::new(Frontend(FrontendHow::Kill)),
        Box::new(Frontend(FrontendHow::Freeze)),
        Box::new(Frontend(FrontendHow::LinkCut)),
        Box::new(OperatorDown),
        Box::new(ControlPlane(Programs::Etcd)),
        Box::new(ControlPlane(Programs::ApiServerAndEtcd)),
        Box::new(HsDirsDown),
        Box::new(AuthoritiesDown),
        Box::new(Rotations),
    ]
}
