//! Fuzzes the messages between the publisher and the agent, and the agent's configuration and
//! token.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onionbalance_operator::link::{AgentConfig, AgentToken, SyncRequest, SyncResponse};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<SyncRequest>(bytes) {
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<SyncRequest>(&text).unwrap(), request);
    }
    if let Ok(response) = serde_json::from_slice::<SyncResponse>(bytes) {
        let text = serde_json::to_string(&response).unwrap();
        assert_eq!(serde_json::from_str::<SyncResponse>(&text).unwrap(), response);
    }
    if let Ok(config) = AgentConfig::from_yaml(&String::from_utf8_lossy(bytes)) {
        assert_eq!(AgentConfig::from_yaml(&config.to_yaml().unwrap()).unwrap(), config);
    }
    if let Ok(token) = AgentToken::from_hex(bytes) {
        assert_eq!(token.to_hex().as_bytes(), bytes.trim_ascii_end().to_ascii_lowercase());
    }
});
