//! Simulates the API server and the HSDirs.

use rand::RngExt as _;

use super::*;

/// The longest response time of the simulated API server.
const SLOWEST: Duration = Duration::from_millis(900);

impl World {
    pub(super) fn call(&mut self, index: usize, call: CallId, request: LeaseRequest) {
        let arrives = self.elapsed + SLOWEST.mul_f64(self.rng.random_range(0.05..0.5));
        let ordered = self.elapsed;
        self.publishers[index].last_call = Some(call);
        self.calls.push(UnderWay { publisher: index, call, request, ordered, arrives, answer: None });
    }

    pub(super) fn serve(&mut self) {
        for mut call in std::mem::take(&mut self.calls) {
            let reachable = self.reaches_server(call.publisher);
            match call.answer.take() {
                None if call.arrives > self.elapsed => self.calls.push(call),
                // Half of the calls fail immediately; the others are never answered.
                None if !reachable && self.rng.random_bool(0.5) => {
                    let answer = Err(CallError::Failed("connection refused".to_owned()));
                    self.send(call.publisher, Message::Answer(call.call, call.ordered, answer));
                }
                None if !reachable => {}
                None => {
                    let answers = self.elapsed + SLOWEST.mul_f64(self.rng.random_range(0.05..0.5));
                    call.answer = Some((answers, self.execute(call.request.clone())));
                    self.calls.push(call);
                }
                Some((at, answer)) if at > self.elapsed => {
                    call.answer = Some((at, answer));
                    self.calls.push(call);
                }
                Some((_, answer)) if reachable => {
                    self.send(call.publisher, Message::Answer(call.call, call.ordered, answer));
                }
                Some(_) => {}
            }
        }
    }

    pub(super) fn execute(&mut self, request: LeaseRequest) -> Result<LeaseAnswer, CallError> {
        match request {
            LeaseRequest::ReadLease => Ok(LeaseAnswer::Read(self.lease.clone().map(Box::new))),
            LeaseRequest::ListReady => {
                let ready = (0..self.publishers.len()).filter(|index| {
                    self.is_running(*index) && self.publishers[*index].tor && self.reaches_server(*index)
                });
                Ok(LeaseAnswer::Ready(
                    ready.map(|index| format!("process-{}", self.publishers[index].process)).collect(),
                ))
            }
            LeaseRequest::WriteLease(mut lease) => {
                let stored = self.lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
                if lease.metadata.resource_version != stored {
                    return Err(CallError::Conflict);
                }
                if let Some(before) = &self.lease {
                    let mut counters = lease_object::counters(&lease);
                    counters.merge(&lease_object::counters(before));
                    assert_eq!(counters, lease_object::counters(&lease), "a stored revision counter decreased");
                }
                assert!(lease_object::belongs_to(&lease, "web"));
                self.version += 1;
                lease.metadata.resource_version = Some(self.version.to_string());
                self.lease = Some(*lease.clone());
                Ok(LeaseAnswer::Written(lease))
            }
        }
    }

    pub(super) fn deliver_uploads(&mut self) {
        for upload in std::mem::take(&mut self.uploads) {
            if upload.arrives > self.elapsed {
                self.uploads.push(upload);
                continue;
            }
            let held = self.held.entry((upload.hsdir, upload.period)).or_default();
            let result = if *held >= upload.counter || self.rejecting.contains(&upload.hsdir) {
                Err(UploadError::Rejected)
            } else {
                *held = upload.counter;
                Ok(())
            };
            let publisher = &self.publishers[upload.publisher];
            if publisher.process == upload.process && publisher.tor {
                self.send(upload.publisher, Message::Conduct(Event::Uploaded(result.clone())));
                self.send(upload.publisher, Message::Engine(Input::Uploaded { hsdir: upload.hsdir, result }));
            }
        }
    }
}
