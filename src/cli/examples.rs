//! The examples in the help of the commands that have no module of their own here. Each can be
//! pasted into a shell: a test parses their command lines.

/// The examples of `kubectl-onionbalance`.
pub(super) const PLUGIN: &str = "Examples:
  kubectl onionbalance status
  kubectl onionbalance doctor web
  kubectl onionbalance key --help";
/// The examples of `kubectl-onionbalance status`.
pub(super) const STATUS: &str = "Examples:
  kubectl onionbalance status
  kubectl onionbalance status web -n shop
  kubectl onionbalance status -A --watch
  kubectl onionbalance status web -o json";
/// The examples of `kubectl-onionbalance doctor`.
pub(super) const DOCTOR: &str = "Examples:
  kubectl onionbalance doctor web
  kubectl onionbalance doctor web -n shop --context production
  kubectl onionbalance doctor web -o json";
/// The examples of `kubectl-onionbalance crd`.
pub(super) const PLUGIN_CRD: &str = "Examples:
  kubectl onionbalance crd | kubectl apply --server-side -f -
  kubectl onionbalance crd --without-rules >crd.yaml
  kubectl onionbalance crd --format markdown | less";
/// The examples of `kubectl-onionbalance completion`. kubectl runs `kubectl_complete-onionbalance`
/// itself.
pub(super) const COMPLETION: &str = "Examples:
  source <(kubectl-onionbalance completion bash)
  kubectl-onionbalance completion fish | source
  kubectl-onionbalance completion zsh >~/.zfunc/_kubectl-onionbalance";

/// The examples of `onionbalance-operator`.
pub(super) const PROGRAM: &str = "Examples:
  onionbalance-operator operator --help
  onionbalance-operator frontend --config /etc/onionbalance/config.yaml
  onionbalance-operator crd

The commands for people (status, doctor, key, config) are in the program kubectl-onionbalance.";
/// The examples of `onionbalance-operator operator`.
pub(super) const OPERATOR: &str = "Examples:
  onionbalance-operator operator --watch-namespace shop,blog --log-format json \\
    --operator-image localhost/onionbalance-operator:dev \\
    --tor-image localhost/onionbalance-tor:dev";
/// The examples of `onionbalance-operator frontend`.
pub(super) const FRONTEND: &str = "Examples:
  onionbalance-operator frontend --config /etc/onionbalance/config.yaml
  onionbalance-operator frontend --config config.yaml --log-addresses full
  onionbalance-operator frontend --service web --namespace shop \\
    --pod-name web-frontend-0 --pod-uid 0";
/// The examples of `onionbalance-operator backend`.
pub(super) const BACKEND: &str = "Examples:
  onionbalance-operator backend --pod-uid 0 --config agent.json --run-dir run
  onionbalance-operator backend init";
/// The examples of `onionbalance-operator probe`.
pub(super) const PROBE: &str = "Examples:
  onionbalance-operator probe onionbalance-operator.onionbalance-system.svc:9402
  onionbalance-operator probe --attempts 1 127.0.0.1:9402";
/// The examples of `onionbalance-operator crd`.
pub(super) const PROGRAM_CRD: &str = "Examples:
  onionbalance-operator crd | kubectl apply --server-side -f -
  onionbalance-operator crd --format markdown >reference.md";

/// The examples of `onionbalance`.
pub(super) const DAEMON: &str = "Examples:
  onionbalance --config /etc/onionbalance/config.yaml
  onionbalance -c config.yaml --socket /run/tor/control --verbosity debug
  onionbalance -c config.yaml --ip 127.0.0.1 --port 9051 --log-format json";
/// The examples of `onionbalance-config`.
pub(super) const GENERATOR: &str = "Examples:
  onionbalance-config
  onionbalance-config --no-interactive --output config -n 3 --tag web
  onionbalance-config --output config --key hs_ed25519_secret_key";

#[cfg(test)]
mod tests {
    use clap::Command;
    use clap::error::ErrorKind;

    use crate::cli::{kubectl_onionbalance, onionbalance, onionbalance_config, onionbalance_operator};

    fn programs() -> [Command; 4] {
        [
            kubectl_onionbalance::command(),
            onionbalance::command(),
            onionbalance_config::command(),
            onionbalance_operator::command(),
        ]
    }

    /// Returns a program with all its commands, each with its path.
    fn commands(path: &str, command: &Command) -> Vec<(String, Command)> {
        let inner =
            command.get_subcommands().flat_map(|inner| commands(&format!("{path} {}", inner.get_name()), inner));
        std::iter::once((path.to_owned(), command.clone())).chain(inner).collect()
    }

    fn all() -> Vec<(String, Command)> {
        programs().iter().flat_map(|program| commands(program.get_name(), program)).collect()
    }

    /// Returns the command lines in the examples of a command.
    fn examples(command: &Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        // A command can take several lines.
        let help = help.replace("\\\n   ", "");
        let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
        lines.take_while(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn each_command_has_examples_of_itself() {
        assert!(all().len() > 15, "only {} commands were found", all().len());
        for (path, command) in all() {
            let plugin = path.replace("kubectl-onionbalance", "kubectl onionbalance");
            let is_own = |line: &String| line.contains(&path) || line.contains(&plugin);
            assert!(examples(&command).iter().any(is_own), "the help of {path} has no example of this command");
        }
    }

    #[test]
    fn each_example_can_be_pasted() {
        for (path, command) in all() {
            // clap would break longer lines in the middle of a command.
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut commands = help.lines().take_while(|line| !line.is_empty());
            assert!(commands.all(|line| line.chars().count() <= 80), "{path}: an example is wider than 80 columns");
            for line in examples(&command) {
                let line = line.replace("kubectl onionbalance", "kubectl-onionbalance");
                for part in line.split('|') {
                    let part = part.split('>').next().unwrap_or_default();
                    let words: Vec<_> = part.split_whitespace().collect();
                    let program = programs().into_iter().find(|program| Some(&program.get_name()) == words.first());
                    let Some(program) = program else { continue };
                    if let Err(error) = program.try_get_matches_from(&words) {
                        assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{path}: {part}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn only_commands_that_log_have_options_for_the_log() {
        const LOG: [&str; 4] = [
            "onionbalance",
            "onionbalance-operator operator",
            "onionbalance-operator frontend",
            "onionbalance-operator backend",
        ];
        for mut program in programs() {
            program.build();
            for (path, command) in commands(program.get_name(), &program) {
                let options: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
                let has_log = ["log-format", "log-addresses"].map(|option| options.contains(&option));
                assert_eq!(has_log, [LOG.contains(&path.as_str()); 2], "{path}");
            }
        }
    }
}
