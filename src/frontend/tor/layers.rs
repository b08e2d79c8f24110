//! Makes tor use the vanguards of the service.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::common::complaint::Complaint;
use crate::control::{Applied, Client, ControlError, LayerControl, Layers};
use crate::link::{Layer, Vanguards};

/// The pause between two checks. A tor that reloads its torrc forgets the options.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause while tor does not know the relays, because it is starting.
const PAUSE_AT_START: Duration = Duration::from_millis(250);

/// The vanguards that tor should use. There are none before a publisher has chosen some.
pub(in crate::frontend) type Wanted = watch::Receiver<Option<Arc<Vanguards>>>;

/// Makes tor use the wanted vanguards, and checks once a second that tor still uses them. Waits
/// forever if the pods share no vanguards.
pub(super) async fn keep(client: &Client, wanted: Option<&Wanted>) -> Infallible {
    let Some(mut wanted) = wanted.cloned() else { return pending().await };
    let (mut control, mut complaint, mut known) = (LayerControl::default(), Complaint::default(), false);
    loop {
        let vanguards = wanted.borrow_and_update().clone();
        if let Some(vanguards) = vanguards {
            let layers = Layers {
                relays: Layer::ALL.map(|layer| vanguards.identities(layer)),
                least: Layer::ALL.map(Layer::least),
            };
            let problem = match control.apply(client, &layers).await {
                Ok(applied) => {
                    if applied == Applied::Now {
                        tracing::info!("tor uses the shared vanguards");
                    }
                    known |= applied.problem().is_none();
                    applied.problem().map(ToOwned::to_owned)
                }
                Err(ControlError::Refused { code, message }) => Some(format!("{code} {message}")),
                // The connection has ended, which its owner notices too.
                Err(_) => return pending().await,
            };
            match problem {
                None => complaint.settle(),
                Some(problem) if known => complaint.utter("tor does not use the shared vanguards", &problem),
                // A tor that is starting has no consensus yet.
                Some(problem) => complaint.mention("tor does not use the shared vanguards yet", &problem),
            }
        }
        tokio::select! {
            () = sleep(if known { PAUSE } else { PAUSE_AT_START }) => {}
            Ok(()) = wanted.changed() => {}
        }
    }
}
