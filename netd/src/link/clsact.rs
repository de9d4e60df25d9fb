//! The clsact queueing discipline that filters hang on: taken away again where nothing hangs on it.

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};

use super::{Error, Links, Mode, error::gone_is_success};

const KIND: &str = "clsact";
/// The hooks that filters of a clsact have as their parent.
const HOOKS: [u16; 2] = [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS];

impl Links {
    /// Removes every clsact without a filter, which does nothing: netd's own, once its filters are gone. Those of others have filters.
    ///
    /// # Errors
    /// The kernel's refusal, with the interface's index.
    pub async fn remove_idle_clsacts(&self) -> Result<(), Error> {
        let every = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let clsact = |message| match message {
            RouteNetlinkMessage::NewQueueDiscipline(qdisc) => {
                let is_clsact = qdisc.attributes.contains(&TcAttribute::Kind(KIND.to_owned()));
                is_clsact.then_some(qdisc.header.index)
            }
            _ => None,
        };
        for ifindex in self.socket.dump("list queueing disciplines", every, clsact).await? {
            if !self.has_filter(ifindex).await? {
                self.remove_clsact(ifindex).await?;
            }
        }
        Ok(())
    }

    async fn has_filter(&self, ifindex: i32) -> Result<bool, Error> {
        for hook in HOOKS {
            if !self.filters_of_hook(ifindex, hook).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn remove_clsact(&self, ifindex: i32) -> Result<(), Error> {
        let mut message = TcMessage::with_index(ifindex);
        message.header.parent = TcHandle::CLSACT;
        let doing = format!("remove the clsact of interface {ifindex}");
        let removed =
            self.socket.send(&doing, Mode::Change, RouteNetlinkMessage::DelQueueDiscipline(message)).await;
        gone_is_success(removed)
    }
}
