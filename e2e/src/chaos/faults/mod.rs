//! The faults.

mod backend;
mod control_plane;
mod frontend;
mod replicas;

use self::backend::{Backend, How};
use self::control_plane::{ApiServerDown, HsDirsDown, OperatorDown};
use self::frontend::{FrontendFreeze, FrontendKill, FrontendTorKill};
use self::replicas::{RollingRestart, ScaleDown};
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
        Box::new(RollingRestart),
        Box::new(ScaleDown),
        Box::new(FrontendKill),
        Box::new(FrontendTorKill),
        Box::new(FrontendFreeze),
        Box::new(OperatorDown),
        Box::new(ApiServerDown),
        Box::new(HsDirsDown),
    ]
}
