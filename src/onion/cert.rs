//! Ed25519 certificates (cert-spec).
