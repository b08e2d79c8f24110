//! The error messages shared by the CEL rules and `validate`.

/// The error message for a malformed object name.
pub(super) const NAME_FORM: &str =
    "must consist of lower-case letters, digits and \"-\" and begin with a letter, because Services are named after it";
/// The error message for a malformed port name.
pub(super) const PORT_NAME: &str = "must consist of at most 63 lower-case letters, digits and \"-\"";
/// The error message for a malformed Secret name.
pub(super) const SECRET_NAME: &str = "is not a valid Secret name; use lower-case letters, digits, \"-\" and \".\"";
/// The error message for a delegated master key without a Secret.
pub(super) const DELEGATED: &str = "requires spec.masterKey.secretName, which names the Secret with the signing kits";
/// The error message for several guards in use that the pods do not share.
pub(super) const GUARDS_IN_USE: &str =
    "must be 1 unless guards is Shared, because each pod then uses a guard of its own";
/// The error message for several guards in use by backends that use no guards.
pub(super) const GUARDS_OF_EXPOSED: &str =
    "must be 1 if serverLocation is Exposed, because the backends then use no guards";
/// The error message for full vanguards of a service whose location is not hidden.
pub(super) const VANGUARDS_OF_EXPOSED: &str =
    "must be Lite if serverLocation is Exposed, because the circuits of the backends then have a single hop";
/// The error message for a change of the location of the servers.
pub(super) const LOCATION_CHANGED: &str = "cannot be changed: what was exposed once is not hidden afterwards, and an edit must \
     not expose what is hidden; create another object, with another master key";
/// The error message for a malformed Service name.
pub(super) const SERVICE_NAME: &str = "is not a valid Service name; use lower-case letters, digits and \"-\". For a \
     Service in another namespace, set target.address to NAME.NAMESPACE.svc:PORT instead";
/// The error message for a port target that has two destinations.
pub(super) const REQUEST_PATH: &str =
    "must begin with \"/\" and consist of printable ASCII characters without spaces, for example \"/healthz\"";
pub(super) const REQUEST_HOST: &str =
    "must be a host name or an address, optionally with a port, for example \"web.example.org\"";
pub(super) const BOTH_TARGETS: &str = "sets both service and address; keep one of them";
/// The error message for a port target that has no destination.
pub(super) const NO_TARGET: &str = "is empty; set service {name, port} or address \"host:port\"";
/// The error message for a denial-of-service defence whose burst is lower than its rate.
pub(super) const BURST: &str = "must not be less than ratePerSecond";
/// The error message for a burst of streams that is lower than its rate, or has no rate.
pub(super) const STREAM_BURST: &str = "must not be less than streamsPerSecond, which must be set";
/// The error message for an external backend that has the service's own address.
pub(super) const OWN_ADDRESS: &str =
    "is the address of this service; use the backend's own address, which its tor wrote to hostname";
/// The error message for a malformed onion address.
pub(super) const ONION_ADDRESS: &str = "a v3 onion address has 56 base32 characters, with or without \".onion\"";
/// The error message for a malformed client key.
pub(super) const CLIENT_KEY: &str = "is not of the form descriptor:x25519:<52 base32 characters>";
