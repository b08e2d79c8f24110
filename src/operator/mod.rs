//! The operator. It repeatedly observes an object, plans the next step with a pure function and
//! executes it, until nothing is left to do.

mod apply;
mod cache;
mod children;
mod conditions;
mod data_plane_log;
mod discover;
mod drift;
mod echoes;
mod events;
mod guarded;
mod holder;
mod leader;
mod observe;
mod openapi;
mod origin;
mod plan;
mod pods;
mod policy;
mod probe;
mod reconcile;
mod runtime;
mod served;
mod settings;
mod stamp;
mod takeover;
mod telemetry;
mod templates;
mod watches;

pub use children::{BuildError, Inputs, manifests};
pub use data_plane_log::DataPlaneLog;
pub use discover::Discovery;
pub use leader::Seat;
pub use openapi::{Document, Index, OpenApiError};
pub use policy::ObjectPolicy;
pub use probe::{ProbeArgs, ProbeError, probe};
pub use runtime::{operate, run};
pub use served::{Fields, PolicyVersion, Served};
pub use settings::{Args, Environment, Settings, SettingsError};
pub use telemetry::Telemetry;
pub use templates::DefaultTemplates;
