//! The TLS connections of HTTPS checks.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// The settings of TLS, or the reason why there are none.
pub(super) type Settings = Result<Arc<ClientConfig>, String>;

/// Returns the settings for a target. If `verify` is true, the target needs a certificate of an
/// authority that this machine trusts.
pub(super) fn settings(verify: bool) -> Settings {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let config = if verify {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        let verifier = Arc::new(AnyCertificate(algorithms));
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    };
    Ok(Arc::new(config))
}

/// Connects with TLS to the server `host`, which may include a port.
pub(super) async fn connect(
    settings: &Settings,
    stream: TcpStream,
    host: &str,
) -> Result<TlsStream<TcpStream>, String> {
    let config = settings.as_ref().map_err(Clone::clone)?;
    let name = without_port(host);
    let server = ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is not a valid server name"))?;
    TlsConnector::from(config.clone()).connect(server, stream).await.map_err(|error| error.to_string())
}

/// Returns the name or the address of a server without its port.
fn without_port(host: &str) -> &str {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    name.unwrap_or_default().trim_end_matches('.')
}

/// A verifier that accepts every certificate. The server must still hold the certificate's key.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;

    use super::*;

    /// The key of a certificate that no authority has signed, for `target.example`. Nothing else
    /// uses the key.
    const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg3Zj+1aOTLNriLosn
8JuPSVFX2TBxK8x3XojuS/sJQDyhRANCAAQjnM1CNeeZIH7apN9RBLV1CoweJ9eK
zRc9VduEwPhW4fSw01YbICSW54iCN9pCxSeZGb4suoDrDikKU9r0AG7V
-----END PRIVATE KEY-----
";
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBpDCCAUqgAwIBAgIUFlKV44bzZBr35VeJfOYBirYbw8IwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOdGFyZ2V0LmV4YW1wbGUwIBcNMjYxMTI5MTI1MjAzWhgPMjEy
NjExMDUxMjUyMDNaMBkxFzAVBgNVBAMMDnRhcmdldC5leGFtcGxlMFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEI5zNQjXnmSB+2qTfUQS1dQqMHifXis0XPVXbhMD4
VuH0sNNWGyAklueIgjfaQsUnmRm+LLqA6w4pClPa9ABu1aNuMGwwHQYDVR0OBBYE
FNQVXHa/q/7dISY2dPPzQH6VdSLsMB8GA1UdIwQYMBaAFNQVXHa/q/7dISY2dPPz
QH6VdSLsMA8GA1UdEwEB/wQFMAMBAf8wGQYDVR0RBBIwEIIOdGFyZ2V0LmV4YW1w
bGUwCgYIKoZIzj0EAwIDSAAwRQIhAIBAGGHNbTvthlERfxR3T1PXILfvCo1aXEj4
6kfjhYTOAiB+qTEzAsdDCvoEsmub0R9q9yp2zypNP7nfanKH1Dbm8g==
-----END CERTIFICATE-----
";

    /// Connects to a server with the certificate above.
    async fn connected(verify: bool) -> Result<(), String> {
        let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await {
                // The client closes the connection.
                let _ = stream.read(&mut [0; 1]).await;
            }
        });
        let stream = TcpStream::connect(target).await.unwrap();
        let connected = connect(&settings(verify), stream, "target.example:443").await.map(drop);
        server.await.unwrap();
        connected
    }

    #[tokio::test]
    async fn a_certificate_without_an_authority_is_accepted_only_without_verification() {
        assert_eq!(connected(false).await, Ok(()));
        let refused = connected(true).await.unwrap_err();
        assert!(refused.contains("certificate"), "{refused}");
    }

    #[test]
    fn the_name_of_a_server_has_no_port() {
        for (host, name) in [
            ("web.example.org", "web.example.org"),
            ("web.example.org.:443", "web.example.org"),
            ("10.0.0.1:443", "10.0.0.1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(without_port(host), name);
            assert!(ServerName::try_from(name).is_ok(), "{name}");
        }
    }
}
