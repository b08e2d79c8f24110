//! Checks restricted discovery as a user sets it up with kubectl: only clients with a key can
//! connect.

use anyhow::{Context as _, Result, ensure};
use data_encoding::BASE64;
use onionbalance_e2e::service::Service;
use onionbalance_e2e::torclient::TorClient;
use onionbalance_operator::onion::{ClientPublicKey, ClientSecretKey};

use crate::scene::{PUBLISHED, SOON, Scene, scene};

const SPEC: &str = "  ports: [{port: 80, target: {service: {name: web, port: http}}}]
  backends: {replicas: 1, drainTimeoutSeconds: 5}
  restrictedDiscovery:";

/// The SOCKS error for a client without a key.
const NO_KEY: &str = "requires a client key";
/// The SOCKS error for a client whose key is not authorized.
const NOT_ADMITTED: &str = "does not know this client's key";

#[tokio::test]
async fn a_client_with_a_key_connects_until_the_key_is_revoked() -> Result<()> {
    scene("restricted", async |scene| {
        let [alice_key, bob_key] = [[1; 32], [2; 32]].map(ClientSecretKey::from_bytes);
        let web = scene.apply("web", &format!("{SPEC} {{}}\n")).await?;
        let onion = web.onion_address().await?;
        let (alice, bob, stranger) = tokio::try_join!(
            scene.tor_client_with_key(&alice_key, &onion),
            scene.tor_client_with_key(&bob_key, &onion),
            scene.tor_client()
        )?;

        // Without any valid key, no client can connect.
        wait_clients_ready(&web, "False", "NoClients", "Nobody may connect;").await?;
        web.wait_published(1, PUBLISHED).await?;
        wait_authorized_clients(scene, &web, Some(0)).await?;
        refused(&alice, &onion, NOT_ADMITTED).await?;
        refused(&stranger, &onion, NO_KEY).await?;

        // One key is in the Secret, and the other is in the object itself.
        put_keys(scene, &[("alice.auth", alice_key.public())]).await?;
        let clients = format!("[{{name: bob, publicKey: {:?}}}]", bob_key.public().to_string());
        scene.apply("web", &format!("{SPEC} {{secretName: clients, clients: {clients}}}\n")).await?;
        wait_clients_ready(&web, "True", "Restricted", "2 clients may connect.").await?;
        wait_authorized_clients(scene, &web, Some(2)).await?;
        for client in [&alice, &bob] {
            client.forget(&onion).await?;
            connects(client, &onion).await?;
        }
        stranger.forget(&onion).await?;
        refused(&stranger, &onion, NO_KEY).await?;

        // The key in the object is revoked; the one in the Secret stays.
        patch(scene, r#"{"spec":{"restrictedDiscovery":{"clients":[]}}}"#).await?;
        wait_clients_ready(&web, "True", "Restricted", "1 client may connect.").await?;
        wait_authorized_clients(scene, &web, Some(1)).await?;
        for client in [&alice, &bob] {
            client.forget(&onion).await?;
        }
        refused(&bob, &onion, NOT_ADMITTED).await?;
        connects(&alice, &onion).await?;

        // The last key is removed too, so no client can connect.
        put_keys(scene, &[]).await?;
        wait_clients_ready(&web, "False", "NoClients", "Nobody may connect;").await?;
        wait_authorized_clients(scene, &web, Some(0)).await?;
        alice.forget(&onion).await?;
        refused(&alice, &onion, NOT_ADMITTED).await?;

        // Every client can connect once discovery is unrestricted, so only the keys kept them out.
        patch(scene, r#"{"spec":{"restrictedDiscovery":null}}"#).await?;
        wait_authorized_clients(scene, &web, None).await?;
        ensure!(web.status().await?.conditions.iter().all(|condition| condition.type_ != "ClientsReady"));
        stranger.forget(&onion).await?;
        connects(&stranger, &onion).await?;
        for client in [alice, bob, stranger] {
            client.remove().await?;
        }
        Ok(())
    })
    .await
}

/// Waits until the condition `ClientsReady` has the given status and reason, and a message that
/// begins with `message`. If `status` is False, also waits until the same is true of the condition
/// `Ready`.
async fn wait_clients_ready(web: &Service, status: &str, reason: &str, message: &str) -> Result<()> {
    web.wait_condition_message("ClientsReady", status, reason, message, SOON).await?;
    if status == "False" {
        web.wait_condition_message("Ready", status, reason, message, SOON).await?;
    }
    Ok(())
}

/// Waits until all responsible HSDirs hold descriptors that the given number of clients can
/// decrypt; `None` means every client.
async fn wait_authorized_clients(scene: &Scene, web: &Service, clients: Option<u32>) -> Result<()> {
    let what = format!("the HSDirs have descriptors for {clients:?} clients");
    scene
        .wait(&what, SOON, async || {
            let published = web.status().await?.published;
            let done = !published.is_empty()
                && published.iter().all(|period| {
                    period.authorized_clients == clients && period.hsdirs_accepted == period.hsdirs_total
                });
            Ok(if done { Ok(()) } else { Err(format!("{published:?}")) })
        })
        .await
}

async fn put_keys(scene: &Scene, keys: &[(&str, ClientPublicKey)]) -> Result<()> {
    let entry =
        |(file, key): &(&str, ClientPublicKey)| format!("{file}: {}", BASE64.encode(key.to_string().as_bytes()));
    let entries = keys.iter().map(entry).collect::<Vec<_>>().join(", ");
    let secret = format!("kind: Secret\napiVersion: v1\nmetadata: {{name: clients}}\ndata: {{{entries}}}\n");
    scene.kubectl(&["apply", "-f", "-"], &secret).await?;
    Ok(())
}

async fn patch(scene: &Scene, patch: &str) -> Result<()> {
    scene.kubectl(&["patch", "obs/web", "--type", "merge", "--patch", patch], "").await?;
    Ok(())
}

async fn connects(client: &TorClient, onion: &str) -> Result<()> {
    let page = client.fetch(onion, "admitted").await.context("an authorized client could not connect")?;
    ensure!(page.starts_with("Hello"), "unexpected page {page:?}");
    Ok(())
}

async fn refused(client: &TorClient, onion: &str, why: &str) -> Result<()> {
    let error = client.fetch(onion, "refused").await.err().context("an unauthorized client connected")?;
    ensure!(format!("{error:#}").contains(why), "{error:#}");
    Ok(())
}
