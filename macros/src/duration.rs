//! Reads duration texts such as `250ms`, `2s`, `1m 30s`.
//!
//! The runtime reads the same texts; here they become milliseconds while compiling, so that a bad one is an error
//! of the build and never of a call.

/// Milliseconds of `text`, which is one or more of number and unit (`ms`, `s`, `m`, `h`, `d`).
///
/// # Errors
/// What is wrong, worded for the end of a sentence that names the text.
pub(crate) fn parse_ms(text: &str) -> Result<u64, &'static str> {
    const EXPECTED: &str = "expected e.g. `250ms`, `2s`, `1m`";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(EXPECTED);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(EXPECTED)?;
        let number: u64 = rest[..digits].parse().map_err(|_| EXPECTED)?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = unit_ms(&rest[..letters]).ok_or(EXPECTED)?;
        rest = rest[letters..].trim_start();
        total = number.checked_mul(unit).and_then(|ms| total.checked_add(ms)).ok_or("too long")?;
    }
    if total == 0 {
        return Err("the shortest is `1ms`");
    }
    Ok(total)
}

fn unit_ms(unit: &str) -> Option<u64> {
    Some(match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::parse_ms;

    #[test]
    fn texts_become_milliseconds() {
        assert_eq!(parse_ms("250ms"), Ok(250));
        assert_eq!(parse_ms("2s"), Ok(2_000));
        assert_eq!(parse_ms("1m"), Ok(60_000));
        assert_eq!(parse_ms("1m 30s"), Ok(90_000));
        assert_eq!(parse_ms(" 1h30m "), Ok(5_400_000));
        assert_eq!(parse_ms("1 d"), Ok(86_400_000));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            " ",
            "2",
            "s",
            "2 apples",
            "2secs",
            "2 min",
            "-1s",
            "1.5s",
            "2s!",
            "0ms",
            "2s 3",
            "18446744073709551615s",
            "99999999999999999999ms",
        ] {
            assert!(parse_ms(text).is_err(), "{text:?} was accepted");
        }
    }
}
