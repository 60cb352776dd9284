//! What a broker does: refuses credentials, drops silently, shows another certificate.
