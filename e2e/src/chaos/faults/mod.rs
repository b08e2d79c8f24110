//! All faults that `make chaos` injects.

mod abuse;
mod app;
mod arrival;
mod authorities;
mod backend;
mod control_plane;
mod frontend;
mod guard_down;
mod outages;
mod pods_replaced;
mod replicas;
mod rotations;
mod silent_hsdirs;

use self::abuse::Abuse;
use self::app::{AppCut, AppDown};
use self::arrival::{ApplyToFetch, NewBackend};
use self::authorities::AuthoritiesDown;
use self::backend::BackendFault;
use self::control_plane::{ControlPlaneDown, HsDirsDown, OperatorDown};
use self::frontend::FrontendFault;
use self::guard_down::GuardDown;
use self::outages::Outages;
use self::pods_replaced::PodsReplaced;
use self::replicas::{PodRestart, RollingRestart, ScaleDown};
use self::rotations::Rotations;
use self::silent_hsdirs::SilentHsdirs;
use super::fault::Fault;

/// Returns all faults in the order in which they are run.
pub fn all() -> Vec<Box<dyn Fault>> {
    vec![
        Box::new(BackendFault::TorKill),
        Box::new(BackendFault::TorFreeze),
        Box::new(BackendFault::AgentKill),
        Box::new(BackendFault::AgentFreeze),
        Box::new(BackendFault::PodDelete),
        Box::new(BackendFault::LinkCut),
        Box::new(AppCut),
        Box::new(AppDown),
        Box::new(PodRestart),
        Box::new(RollingRestart),
        Box::new(ScaleDown),
        Box::new(NewBackend),
        Box::new(ApplyToFetch),
        Box::new(Abuse),
        Box::new(FrontendFault::TorKill),
        Box::new(FrontendFault::TorFreeze),
        Box::new(FrontendFault::PublisherKill),
        Box::new(FrontendFault::PublisherFreeze),
        Box::new(FrontendFault::Kill),
        Box::new(FrontendFault::Freeze),
        Box::new(FrontendFault::LinkCut),
        Box::new(OperatorDown),
        Box::new(ControlPlaneDown::Etcd),
        Box::new(ControlPlaneDown::ApiServerAndEtcd),
        Box::new(HsDirsDown),
        Box::new(AuthoritiesDown),
        Box::new(Rotations),
        Box::new(Outages),
        Box::new(GuardDown),
        // This fault adds relays to the network, which stay.
        Box::new(PodsReplaced),
        // The publisher lets the silent HSDirs rest for up to half an hour after this fault.
        Box::new(SilentHsdirs),
    ]
}
