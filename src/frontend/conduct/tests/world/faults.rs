//! Injects the faults and changes of the simulated world.

use super::*;

impl World {
    pub(in super::super) fn pause(&mut self, index: usize, duration: Duration) {
        let until = self.elapsed + duration;
        self.publishers[index].paused_until = self.publishers[index].paused_until.max(until);
    }

    pub(in super::super) fn set_link(&mut self, index: usize, link: bool) {
        let elapsed = self.elapsed;
        let publisher = &mut self.publishers[index];
        if link && !publisher.link {
            publisher.linked = elapsed;
        }
        publisher.link = link;
        self.show_object(index);
    }

    pub(in super::super) fn set_server(&mut self, server: bool) {
        if server && !self.server {
            self.server_since = self.elapsed;
        }
        self.server = server;
        (0..self.publishers.len()).for_each(|index| self.show_object(index));
    }

    pub(in super::super) fn set_suspended(&mut self, suspended: bool) {
        self.suspended = suspended;
        (0..self.publishers.len()).for_each(|index| self.show_object(index));
    }

    /// Sends the object to a publisher if that publisher can reach the API server.
    pub(super) fn show_object(&mut self, index: usize) {
        if self.reaches_server(index) {
            let (suspended, discovery) = (self.suspended, Some(Discovery::Open));
            self.send(index, Message::Conduct(Event::Object { uid: "u".to_owned(), suspended, discovery }));
        }
    }

    pub(in super::super) fn set_tor(&mut self, index: usize, tor: bool) {
        if self.publishers[index].tor == tor {
            return;
        }
        self.publishers[index].tor = tor;
        self.send(index, Message::Conduct(Event::Tor(tor)));
        if tor {
            self.send(index, Message::Engine(Input::TorRestarted));
        }
    }

    /// Connects a publisher's tor to the network, or cuts it off. The tor still answers on its
    /// control socket.
    pub(in super::super) fn set_online(&mut self, index: usize, online: bool) {
        self.publishers[index].online = online;
    }

    pub(in super::super) fn set_rejecting(&mut self, place: usize, rejects: bool) {
        let known: BTreeSet<Fingerprint> = self.held.keys().map(|(hsdir, _)| *hsdir).collect();
        let Some(hsdir) = known.iter().nth(place % known.len().max(1)) else { return };
        if rejects {
            self.rejecting.insert(*hsdir)
        } else {
            self.rejecting.remove(hsdir)
        };
    }

    pub(in super::super) fn backend(&mut self, (id, content): (BackendId, Arc<ServiceContent>)) {
        self.backends.insert(id.clone(), content.clone());
        for index in 0..self.publishers.len() {
            self.send(index, Message::Engine(Input::Backend(id.clone(), content.clone())));
        }
    }

    /// Kills a publisher's process and starts a new one in its place.
    pub(in super::super) fn kill(&mut self, index: usize) {
        let skew = self.publishers[index].skew;
        let link = self.publishers[index].link;
        self.publishers[index] = self.process(skew);
        self.publishers[index].link = link;
        self.calls.retain(|call| call.publisher != index);
        self.boot(index);
    }

    /// Stops a publisher's process in an orderly way. A new one starts when it has ended.
    pub(in super::super) fn stop(&mut self, index: usize) {
        self.send(index, Message::Conduct(Event::Stop));
    }

    pub(in super::super) fn heal(&mut self) {
        self.rejecting.clear();
        self.set_server(true);
        self.set_suspended(false);
        for index in 0..self.publishers.len() {
            self.set_link(index, true);
            self.set_tor(index, true);
            self.set_online(index, true);
            self.publishers[index].paused_until = self.publishers[index].paused_until.min(self.elapsed);
        }
    }
}
