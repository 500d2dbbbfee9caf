//! Faults on purpose in a channel's attempts: after the endpoint is chosen, so that all who judge it see them.

use tokio::runtime::Handle;

use super::channel::Channel;
use super::member::Picked;
use super::raw::RawRequest;
use crate::faults::ChannelFaults;
use crate::policy::faults::{End, Met, Seen};
use crate::status::{Origin, Status};

/// What is still to become of an attempt; nothing, nearly always.
#[derive(Debug, Default)]
pub(super) struct Pending(Option<Box<Met>>);

impl Channel {
    /// Whether attempts may meet a fault.
    #[inline]
    pub(super) fn has_faults(&self) -> bool {
        self.governance().faults().is_some_and(ChannelFaults::is_on)
    }

    /// What becomes of an attempt there.
    pub(super) fn fault(&self, request: &RawRequest, picked: &Picked) -> Pending {
        // Elsewhere there are no timers.
        let met = self.governance().faults().filter(|_| Handle::try_current().is_ok()).map(|faults| {
            faults.meet(&Seen {
                path: request.path().unwrap_or_default(),
                metadata: &request.metadata,
                endpoint: picked.completion.as_ref().map_or("", |completion| completion.member().subchannel.target()),
            })
        });
        Pending(met.filter(Met::is_any).map(Box::new))
    }
}

impl Pending {
    /// Whether it ends the attempt before anything is sent.
    pub(super) fn is_error(&self) -> bool {
        self.0.as_ref().is_some_and(|met| matches!(met.end, Some(End::Error { .. } | End::Overload)))
    }

    /// Lets it come to pass.
    pub(super) async fn pass(self) -> Result<(), Status> {
        match self.0 {
            None => Ok(()),
            // As a server would have said.
            Some(met) => {
                let is_unseen = matches!(met.end, Some(End::Error { is_unseen: true, .. }));
                Box::pin(met.pass()).await.map_err(|status| {
                    let status = status.with_origin(Origin::Remote);
                    if is_unseen { status } else { status.answered_by_server() }
                })
            }
        }
    }
}
