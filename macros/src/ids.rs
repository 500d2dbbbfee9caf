//! Names and ids of methods on the wire.
//!
//! An id is the 64-bit FNV-1a hash of the path, `shop.Orders/get`. Signature, module path and crate version are
//! never part of it, so that a contract may move and grow.
//! Source: Fowler, Noll, Vo (offset basis and prime of the 64-bit variant).

/// The 64-bit FNV-1a hash of a text's bytes.
pub(crate) fn fnv1a(text: &str) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    text.bytes().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Whether a text can be the name of a service or of a method.
///
/// Letters, digits, `_`, `-` and single inner dots: names stand in paths, URLs and etcd keys.
pub(crate) fn is_name(text: &str) -> bool {
    text.split('.')
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'))
}

/// Whether a text is `service/method`.
pub(crate) fn is_path(text: &str) -> bool {
    text.split_once('/').is_some_and(|(service, method)| is_name(service) && is_name(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_matches_the_published_vectors() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn two_known_services_collide_on_equal_method_names() {
        for method in ["get", "place", "x"] {
            let a = fnv1a(&format!("8yn0iYCKYHlIj4-BwPqk/{method}"));
            let b = fnv1a(&format!("GReLUrM4wMqfg9yzV3KQ/{method}"));
            assert_eq!(a, b);
        }
    }

    #[test]
    fn names_keep_to_url_letters() {
        for good in ["Orders", "shop.Orders", "a-b_c.D2"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a/b", "a b", "ä"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_path("shop.Orders/get"));
        assert!(!is_path("get"));
        assert!(!is_path("a/b/c"));
    }
}
