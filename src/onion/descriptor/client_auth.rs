//! Client authorization in a descriptor (rend-spec-v3, section 2.5.1.2): the `auth-client` items of
//! layer 1, and the descriptor cookie, with which layer 2 is encrypted.

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use rand::CryptoRng;
use rand::seq::SliceRandom as _;
use shake::Shake256;
use shake::digest::{ExtendableOutput, Update, XofReader};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::random;
use crate::onion::blind::Subcredential;
use crate::onion::client_auth::{ClientSecretKey, Discovery};

/// The number of `auth-client` items is padded with dummies to a multiple of this value, as in C
/// tor. Without client authorization, all items are dummies.
const MULTIPLE: usize = 16;
const COOKIE_LEN: usize = 16;

/// The descriptor cookie, a secret that encrypts layer 2 and is available only to authorized
/// clients.
pub(super) type Cookie = Zeroizing<[u8; COOKIE_LEN]>;

/// The content of an `auth-client` item: a client's id, an IV and the encrypted descriptor cookie,
/// or random bytes in a dummy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AuthClient {
    pub id: [u8; 8],
    pub iv: [u8; 16],
    pub cookie: [u8; COOKIE_LEN],
}

/// The client authorization data of a time period's descriptors. It changes only when the set of
/// clients changes.
pub(super) struct ClientAuth {
    ephemeral: ClientSecretKey,
    discovery: Discovery,
    /// The descriptor cookie, or None while discovery is open.
    cookie: Option<Cookie>,
    clients: Vec<AuthClient>,
}

impl ClientAuth {
    /// Generates the client authorization for open discovery.
    pub(super) fn generate(rng: &mut impl CryptoRng) -> Self {
        let ephemeral = ClientSecretKey::generate(rng);
        let mut clients = Vec::new();
        fill_up(&mut clients, rng);
        Self { ephemeral, discovery: Discovery::Open, cookie: None, clients }
    }

    /// Sets which clients can decrypt layer 2. As in C tor, every `auth-client` item is regenerated
    /// and the ephemeral key is kept. Unlike C tor, the cookie is regenerated as well, so that a
    /// client that is no longer authorized cannot use the old cookie.
    pub(super) fn set(&mut self, subcredential: &Subcredential, discovery: &Discovery, rng: &mut impl CryptoRng) {
        if self.discovery == *discovery {
            return;
        }
        self.discovery = discovery.clone();
        self.clients.clear();
        self.cookie = match discovery {
            Discovery::Open => None,
            Discovery::Restricted(authorized) => {
                let cookie = Zeroizing::new(random(rng));
                for client in authorized {
                    let keys = ClientKeys::derive(subcredential, &self.ephemeral, client.as_bytes());
                    let iv = random(rng);
                    let mut encrypted = *cookie;
                    keys.apply_cipher(iv, &mut encrypted);
                    self.clients.push(AuthClient { id: keys.id, iv, cookie: encrypted });
                }
                Some(cookie)
            }
        };
        fill_up(&mut self.clients, rng);
        // The order of the items must not reveal which client was added first.
        self.clients.shuffle(rng);
    }

    pub(super) fn ephemeral_key(&self) -> [u8; 32] {
        *self.ephemeral.public().as_bytes()
    }

    pub(super) fn clients(&self) -> &[AuthClient] {
        &self.clients
    }

    pub(super) fn cookie(&self) -> Option<&Cookie> {
        self.cookie.as_ref()
    }
}

/// Pads the list with dummies to a multiple of 16 items. An empty list becomes 16 dummies.
fn fill_up(clients: &mut Vec<AuthClient>, rng: &mut impl CryptoRng) {
    let wanted = clients.len().max(1).next_multiple_of(MULTIPLE);
    clients.resize_with(wanted, || AuthClient { id: random(rng), iv: random(rng), cookie: random(rng) });
}

/// Decrypts the descriptor cookie with this client key. Returns None if no item is for this client.
pub(super) fn find_cookie(
    subcredential: &Subcredential,
    client: &ClientSecretKey,
    ephemeral_key: &[u8; 32],
    clients: &[AuthClient],
) -> Option<Cookie> {
    let keys = ClientKeys::derive(subcredential, client, ephemeral_key);
    let own = clients.iter().find(|item| item.id == keys.id)?;
    let mut cookie = Zeroizing::new(own.cookie);
    keys.apply_cipher(own.iv, &mut cookie);
    Some(cookie)
}

/// The keys that a service and one of its clients share:
///
/// ```text
/// SECRET_SEED = x25519(hs_y, client_X) = x25519(client_y, hs_X)
/// CLIENT-ID | COOKIE-KEY = SHAKE-256(N_hs_subcred | SECRET_SEED)
/// ```
#[derive(Zeroize, ZeroizeOnDrop)]
struct ClientKeys {
    id: [u8; 8],
    cookie_key: [u8; 32],
}

impl ClientKeys {
    fn derive(subcredential: &Subcredential, secret: &ClientSecretKey, public: &[u8; 32]) -> Self {
        let seed = secret.shared_with(public);
        let mut stream = Shake256::default().chain(subcredential.0).chain(*seed).finalize_xof();
        let mut keys = Self { id: [0; 8], cookie_key: [0; 32] };
        stream.read(&mut keys.id);
        stream.read(&mut keys.cookie_key);
        keys
    }

    /// Encrypts or decrypts the cookie with AES-256-CTR.
    fn apply_cipher(&self, iv: [u8; 16], cookie: &mut [u8; COOKIE_LEN]) {
        Ctr128BE::<Aes256>::new(&self.cookie_key.into(), &iv.into()).apply_keystream(cookie);
    }
}
