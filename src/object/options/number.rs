//! Numbers in option strings.
#![forbid(unsafe_code)]

/// An integer in C's notation, `10`, `0xa` or `012`, with an optional sign.
pub(super) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = i128::from(unsigned(digits)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

pub(super) fn unsigned(digits: &str) -> Option<u64> {
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    // from_str_radix would take a second sign.
    let plain = digits.starts_with(|first: char| first.is_ascii_alphanumeric());
    plain.then(|| u64::from_str_radix(digits, radix).ok())?
}

/// A number of bytes, with an optional fraction and suffix `B K M G T P E` in either case.
pub(super) fn size(text: &str) -> Option<u64> {
    if text.starts_with("0x") || text.starts_with("0X") {
        return unsigned(text);
    }
    let (number, shift) = suffix(text);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let decimal = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !decimal(whole) || !decimal(fraction) {
        return None;
    }
    let unit = 1u64 << shift;
    let scaled = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    scaled.checked_add(part_of(unit, fraction)?)
}

fn suffix(text: &str) -> (&str, u32) {
    let Some(last) = text.chars().last() else {
        return (text, 0);
    };
    let shift = match last.to_ascii_uppercase() {
        'B' => 0,
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        'P' => 50,
        'E' => 60,
        _ => return (text, 0),
    };
    (&text[..text.len() - 1], shift)
}

/// `0.fraction` of `unit`, rounded down. `None` for a fraction of a byte.
fn part_of(unit: u64, fraction: &str) -> Option<u64> {
    const DIGITS: usize = 18;
    if fraction.is_empty() {
        return Some(0);
    }
    if unit == 1 || fraction.len() > DIGITS {
        return None;
    }
    let numerator = u128::from(fraction.parse::<u64>().ok()?);
    let denominator = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    u64::try_from(numerator * u128::from(unit) / denominator).ok()
}
