//! Makes tor use given relays as the second and third hops of its onion service circuits
//! (`HSLayer2Nodes` and `HSLayer3Nodes`).

use std::time::Duration;

use data_encoding::HEXUPPER;
use tokio::time::Instant;

use super::client::line;
use super::{Client, ControlError};

/// The options that name the relays, as the control protocol spells them.
const OPTIONS: [&str; 2] = ["HSLayer2Nodes", "HSLayer3Nodes"];
/// The option that makes tor leave out relays of the layers.
const EXCLUDED: &str = "ExcludeNodes";
/// The time after which the relays are looked up again in the consensus.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The relays at the second and third hops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// The RSA identity digests of the relays of each layer.
    pub relays: [Vec<[u8; 20]>; 2],
    /// The least number of relays of each layer that tor must know. With fewer, tor could fail to
    /// find a path.
    pub least: [usize; 2],
}

/// What became of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Tor has just been told to use the layers. Tor then closes the circuits that carry no stream
    /// and builds others.
    Now,
    /// Tor uses the layers already.
    Before,
    /// Tor does not use the layers, because its consensus lists too few of the relays. Tor chooses
    /// the second hops itself.
    TooFewKnown,
    /// Tor does not use the layers, because its torrc excludes relays, perhaps those of the layers.
    /// Tor chooses the second hops itself.
    Excluding,
}

impl Applied {
    /// Returns the problem, or None if tor uses the layers.
    pub fn problem(self) -> Option<&'static str> {
        match self {
            Self::Now | Self::Before => None,
            Self::TooFewKnown => Some("its consensus lists too few of them"),
            Self::Excluding => Some("its torrc contains ExcludeNodes; remove the line"),
        }
    }
}

/// Keeps the layers of one tor. The options of a tor can get lost, because a tor that restarts or
/// reloads its torrc forgets what was set over the control port.
#[derive(Debug, Default)]
pub struct LayerControl {
    judged: Option<Judgement>,
}

/// The result of looking up the relays.
#[derive(Debug)]
struct Judgement {
    layers: Layers,
    made: Instant,
    problem: Option<Applied>,
}

impl LayerControl {
    /// Makes tor use the layers, unless they are unusable. Returns what became of them.
    pub async fn apply(&mut self, client: &Client, wanted: &Layers) -> Result<Applied, ControlError> {
        let problem = self.judge(client, wanted).await?;
        let values = wanted.values();
        let [second, third] = OPTIONS.map(|option| client.get_conf(option));
        let has_wanted = second.await? == [values[0].as_str()] && third.await? == [values[1].as_str()];
        match (problem, has_wanted) {
            (None, true) => Ok(Applied::Before),
            (None, false) => {
                client.set_layers(Some(&values)).await?;
                Ok(Applied::Now)
            }
            (Some(problem), true) => {
                client.set_layers(None).await?;
                Ok(problem)
            }
            (Some(problem), false) => Ok(problem),
        }
    }

    /// Returns the reason for which the layers are unusable. Usable ones are checked again once a
    /// minute, and the others each time.
    async fn judge(&mut self, client: &Client, wanted: &Layers) -> Result<Option<Applied>, ControlError> {
        if let Some(Judgement { layers, made, problem: None }) = &self.judged
            && layers == wanted
            && made.elapsed() < LOOK_AGAIN
        {
            return Ok(None);
        }
        let problem = if client.get_conf(EXCLUDED).await?.iter().any(|relays| !relays.is_empty()) {
            Some(Applied::Excluding)
        } else if wanted.are_known(client).await? {
            None
        } else {
            Some(Applied::TooFewKnown)
        };
        self.judged = Some(Judgement { layers: wanted.clone(), made: Instant::now(), problem });
        Ok(problem)
    }
}

impl Layers {
    /// Returns the values of the options.
    fn values(&self) -> [String; 2] {
        let name = |relay: &[u8; 20]| format!("${}", HEXUPPER.encode(relay));
        [0, 1].map(|layer: usize| self.relays[layer].iter().map(name).collect::<Vec<_>>().join(","))
    }

    /// Returns true if tor's consensus lists enough relays of each layer.
    async fn are_known(&self, client: &Client) -> Result<bool, ControlError> {
        for (relays, least) in self.relays.iter().zip(self.least) {
            let mut known = 0;
            for relay in relays {
                match client.get_info(&format!("ns/id/{}", HEXUPPER.encode(relay))).await {
                    Ok(entry) => known += usize::from(!entry.trim().is_empty()),
                    Err(ControlError::Refused { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if known < least {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Client {
    /// Sends SETCONF for both layers in one command, so that tor never uses a layer of one set with
    /// a layer of another. Without values, tor uses its defaults.
    async fn set_layers(&self, values: Option<&[String; 2]>) -> Result<(), ControlError> {
        let arguments = match values {
            Some([second, third]) => [format!("{}={second}", OPTIONS[0]), format!("{}={third}", OPTIONS[1])],
            None => OPTIONS.map(ToOwned::to_owned),
        };
        self.command(line("SETCONF", &arguments.each_ref().map(String::as_str))?).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::testing::{PATIENCE, connect};
    use super::*;

    /// A scripted tor with its options and its consensus.
    #[derive(Default)]
    struct Tor {
        layers: [String; 2],
        excluded: String,
        known: BTreeSet<String>,
        commands: Vec<String>,
    }

    impl Tor {
        fn knowing(numbers: impl IntoIterator<Item = u8>) -> Self {
            let known = numbers.into_iter().map(|number| format!("{number:02X}").repeat(20)).collect();
            Self { known, ..Self::default() }
        }

        /// Answers commands until `asked` ends.
        async fn serve<T>(&mut self, asked: impl AsyncFnOnce(Client) -> T) -> T {
            let (client, _events, mut peer) = connect(PATIENCE);
            let mut asked = Box::pin(asked(client));
            loop {
                tokio::select! {
                    biased;
                    done = &mut asked => return done,
                    command = peer.read_line() => {
                        let answer = self.answer(command.trim_end());
                        peer.write(answer).await;
                    }
                }
            }
        }

        fn answer(&mut self, command: &str) -> String {
            if let Some(id) = command.strip_prefix("GETINFO ns/id/") {
                let answer = format!("250+ns/id/{id}=\r\nr name\r\ns Fast\r\n.\r\n250 OK\r\n");
                let unknown = format!("552 Unrecognized key \"ns/id/{id}\"\r\n");
                return if self.known.contains(id) { answer } else { unknown };
            }
            match command {
                "GETCONF HSLayer2Nodes" => conf("HSLayer2Nodes", &self.layers[0]),
                "GETCONF HSLayer3Nodes" => conf("HSLayer3Nodes", &self.layers[1]),
                "GETCONF ExcludeNodes" => conf("ExcludeNodes", &self.excluded),
                other => {
                    let words: Vec<_> = other.split(' ').collect();
                    assert_eq!((words[0], words.len()), ("SETCONF", 3), "{other}");
                    let value =
                        |word: &str| word.split_once('=').map(|(_, value)| value.to_owned()).unwrap_or_default();
                    self.layers = [value(words[1]), value(words[2])];
                    self.commands.push(other.to_owned());
                    "250 OK\r\n".to_owned()
                }
            }
        }
    }

    fn conf(option: &str, value: &str) -> String {
        if value.is_empty() { format!("250 {option}\r\n") } else { format!("250 {option}={value}\r\n") }
    }

    fn layers(second: &[u8], third: &[u8]) -> Layers {
        let relays = [second, third].map(|numbers| numbers.iter().map(|number| [*number; 20]).collect());
        Layers { relays, least: [2, 2] }
    }

    #[tokio::test(start_paused = true)]
    async fn both_layers_are_set_in_one_command_and_only_once() {
        let mut tor = Tor::knowing(0..9);
        let wanted = layers(&[1, 2], &[3, 4, 5]);
        let applied = tor.serve(async |client| {
            let mut control = LayerControl::default();
            [control.apply(&client, &wanted).await.unwrap(), control.apply(&client, &wanted).await.unwrap()]
        });
        assert_eq!(applied.await, [Applied::Now, Applied::Before]);
        let name = |number: &str| format!("${}", number.repeat(20));
        let expected = format!(
            "SETCONF HSLayer2Nodes={},{} HSLayer3Nodes={},{},{}",
            name("01"),
            name("02"),
            name("03"),
            name("04"),
            name("05")
        );
        assert_eq!(tor.commands, [expected]);
    }

    /// A tor that restarts, or reloads its torrc, forgets the options.
    #[tokio::test(start_paused = true)]
    async fn options_that_tor_has_lost_are_set_again() {
        let mut tor = Tor::knowing(0..9);
        let wanted = layers(&[1, 2], &[3, 4]);
        let mut control = LayerControl::default();
        for expected in [Applied::Now, Applied::Now, Applied::Before] {
            assert_eq!(tor.serve(async |client| control.apply(&client, &wanted).await.unwrap()).await, expected);
            if tor.commands.len() == 1 {
                tor.layers = <[String; 2]>::default();
            }
        }
        let other = layers(&[1, 6], &[3, 4]);
        assert_eq!(tor.serve(async |client| control.apply(&client, &other).await.unwrap()).await, Applied::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn layers_of_unknown_relays_are_never_set() {
        let mut tor = Tor::knowing([1, 3, 4]);
        let wanted = layers(&[1, 2], &[3, 4]);
        let mut control = LayerControl::default();
        let mut apply =
            async |tor: &mut Tor| tor.serve(async |client| control.apply(&client, &wanted).await.unwrap()).await;
        assert_eq!(apply(&mut tor).await, Applied::TooFewKnown);
        assert_eq!(tor.commands, [""; 0]);
        // As soon as tor knows the relays, it uses them.
        tor.known.insert("02".repeat(20));
        assert_eq!(apply(&mut tor).await, Applied::Now);
        // A tor without an up-to-date publisher loses relays in the course of time.
        tor.known.remove(&"03".repeat(20));
        assert_eq!(apply(&mut tor).await, Applied::Before);
        tokio::time::advance(LOOK_AGAIN).await;
        assert_eq!(apply(&mut tor).await, Applied::TooFewKnown);
        assert_eq!(tor.commands[1], "SETCONF HSLayer2Nodes HSLayer3Nodes");
        assert_eq!(apply(&mut tor).await, Applied::TooFewKnown);
        assert_eq!(tor.commands.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tor_that_excludes_relays_keeps_its_own_second_hops() {
        let mut tor = Tor { excluded: "$01".to_owned(), ..Tor::knowing(0..9) };
        let wanted = layers(&[1, 2], &[3, 4]);
        let applied = tor.serve(async |client| LayerControl::default().apply(&client, &wanted).await.unwrap()).await;
        assert_eq!((applied, tor.commands.len()), (Applied::Excluding, 0));
        assert!(applied.problem().is_some());
    }
}
