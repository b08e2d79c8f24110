//! Valid objects at the limits of the schema and the rules, which nothing may refuse.

use serde_json::{Value, json};

use super::{EXTERNAL, KEYS};

/// Returns changes that produce valid objects at the limits of what the schema allows.
pub fn allowed() -> Vec<Value> {
    let spec = |change: Value| json!({ "spec": change });
    let target = |target: Value| spec(json!({"ports": [{"port": 80, "target": target}]}));
    let torrc = "# comment \\ %\u{e9}\n\n\tHiddenServiceMaxStreams 100 # ControlPort\r\n +UseBridges 1\n/numcpus#c\n\
        LOG  notice\tstdout # info\nVanguardsLiteEnabled auto";
    // The rules must be able to evaluate the longest text within the API server's cost limits.
    let longest = format!("{:16384}", "BandwidthRate 1 MB # 6789\n".repeat(625));
    let quantities = json!({"cpu": 1, "memory": "128e6", "a": "1E", "b": ".5", "c": "100m", "d": 0});
    let template = json!({
        "labels": {"team": "a", "example.org/app.kubernetes.io": "b"}, "annotations": {"note": "two\nlines"},
        "resources": {"tor": {"requests": quantities, "limits": {}}, "agent": null}, "priorityClassName": "", "affinity": null,
    });
    // Labels of nodes are often empty, for example `node-role.kubernetes.io/control-plane`.
    let empty = json!({"labels": {"a": ""}, "annotations": {"b": ""}, "nodeSelector": {"example.org/c": ""}});
    vec![
        json!({"metadata": {"name": "a".repeat(54)}}),
        spec(json!({"ports": [
            {"name": null, "port": 1, "target": {"address": "a:1", "service": null}, "proxyProtocol": null},
            {"name": "1-b", "port": 2, "target": {"service": {"name": "1web", "port": 65535}}, "proxyProtocol": "v1"},
            {"port": 65534, "target": {"address": "a:1"}, "idleTimeoutSeconds": 86400},
            {"port": 65535, "target": {"service": {"name": "web", "port": "80"}}, "idleTimeoutSeconds": null},
        ]})),
        spec(json!({"ports": [
            {"port": 1, "target": {"address": "a:1"}, "healthCheck": null},
            {"port": 2, "target": {"address": "a:1"}, "healthCheck": {"enabled": false, "http": null}},
            {"port": 3, "target": {"address": "a:1"}, "healthCheck": {
                "periodSeconds": 3600, "timeoutSeconds": 60, "failureThreshold": 100, "successThreshold": 1,
                "http": {"path": "/a?b=c~", "host": "[2001:db8::1]:80", "https": {"verify": false}, "statuses": [100, 599]},
            }},
        ]})),
        target(json!({"address": "web.example.org.:00080"})),
        target(json!({"address": "[2001:db8::1]:80"})),
        spec(json!({"masterKey": {"secretName": "a.b-c", "onionAddress": EXTERNAL.to_uppercase()}})),
        spec(json!({"masterKey": {"secretName": "kits", "delegated": true}})),
        spec(json!({"masterKey": {"secretName": null, "onionAddress": EXTERNAL.strip_suffix(".onion")}})),
        spec(json!({"backends": {"replicas": 0, "introductionPoints": 20, "introDosDefense": {"burstPerSecond": 25}}})),
        spec(json!({"backends": {"introDosDefense": null, "extraTorrc": torrc, "template": template}})),
        spec(json!({"backends": {"circuitLimits": {}, "extraTorrc": "EntryNodes $AB,$CD"}})),
        spec(
            json!({"backends": {"circuitLimits": {"openStreams": 1, "streamsPerSecond": 5, "streamBurst": 5, "bytesPerSecond": 16384}}}),
        ),
        spec(
            json!({"backends": {"circuitLimits": {"openStreams": 16384, "streamsPerSecond": 10000, "streamBurst": null}}}),
        ),
        spec(json!({"frontend": {"extraTorrc": "NumCPUs 1\nUseBridges 1", "template": template}})),
        spec(json!({"backends": {"extraTorrc": longest}, "frontend": {"extraTorrc": longest}})),
        spec(json!({"frontend": {"probe": {"enabled": false, "periodSeconds": 86400, "timeoutSeconds": 60}}})),
        spec(json!({"frontend": {"probe": {"http": {"path": "/a?b=%20", "host": "[2001:db8::1]:80"}}}})),
        spec(json!({"frontend": {"probe": {"http": null}}})),
        spec(
            json!({"backends": {"extraTorrc": "", "template": empty}, "frontend": {"extraTorrc": "", "template": empty}}),
        ),
        spec(
            json!({"backends": {"extraTorrc": null, "template": {"labels": {"a": null}, "nodeSelector": {"b": null}}}}),
        ),
        spec(json!({"externalBackends": [{"onionAddress": EXTERNAL}]})),
        spec(json!({"externalBackends": [{"onionAddress": EXTERNAL, "maxIntroductionPoints": 1}]})),
        spec(json!({"externalBackends": [{"onionAddress": EXTERNAL, "maxIntroductionPoints": 20}]})),
        spec(json!({"restrictedDiscovery": null, "anonymity": {"serverLocation": "Exposed"}})),
        spec(json!({"restrictedDiscovery": {"secretName": "clients", "clients": [
            {"name": "a", "publicKey": KEYS[0]}, {"name": "b b", "publicKey": KEYS[1].to_lowercase().replace(':', " : ")},
        ]}})),
    ]
}
