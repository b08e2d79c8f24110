//! The version of the programs, which names the commit that they were built from.

use std::sync::LazyLock;

/// The commit, which the scripts in `deploy/release` set when they build the programs. A build
/// without the variable names no commit, so that a commit does not make cargo build everything
/// again.
const COMMIT: Option<&str> = option_env!("ONIONBALANCE_COMMIT");

/// Returns what `--version` prints after the name of the program, for example
/// `0.1.0 (0123456789ab)`.
pub(super) fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| with_commit(env!("CARGO_PKG_VERSION"), COMMIT));
    &VERSION
}

fn with_commit(version: &str, commit: Option<&str>) -> String {
    match commit.map(str::trim).filter(|commit| !commit.is_empty()) {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_names_the_commit_if_the_build_knows_it() {
        assert_eq!(with_commit("1.2.3", Some("0123456789ab\n")), "1.2.3 (0123456789ab)");
        assert_eq!(with_commit("1.2.3", Some("")), "1.2.3");
        assert_eq!(with_commit("1.2.3", None), "1.2.3");
    }
}
