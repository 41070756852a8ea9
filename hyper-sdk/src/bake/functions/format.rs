//! `format` and `formatlist`: texts from patterns with verbs such as `%s`, `%05d` and `%q`.

use super::{Arguments, Number, Outcome, Table, Value};

pub(super) const TABLE: Table = &[
    ("format", |a| {
        a.count(1, usize::MAX)?;
        Ok(Value::string(format(a, &a.text(0)?, &a.values[1..])?))
    }),
    ("formatlist", |a| {
        a.count(1, usize::MAX)?;
        let pattern = a.text(0)?;
        let lists = || a.values[1..].iter().filter_map(|value| value.items().ok());
        let length = lists().map(|items| items.len()).max();
        if lists().any(|items| Some(items.len()) != length) {
            return Err("the lists have different lengths".into());
        }
        let Some(length) = length else {
            return Ok(Value::list(vec![Value::string(format(a, &pattern, &a.values[1..])?)]));
        };
        let mut all = Vec::with_capacity(length);
        for row in 0..length {
            let values: Vec<Value> = a.values[1..]
                .iter()
                .map(|value| value.items().map_or_else(|_| value.clone(), |items| items[row].clone()))
                .collect();
            all.push(Value::string(format(a, &pattern, &values)?));
        }
        Ok(Value::list(all))
    }),
];

/// The most characters of a padded value.
const MAX_WIDTH: usize = 1024;

/// A verb with its flags.
#[derive(Debug, Default)]
struct Verb {
    plus: bool,
    minus: bool,
    space: bool,
    hash: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

fn format(a: &Arguments<'_>, pattern: &str, values: &[Value]) -> Outcome<String> {
    let mut out = String::new();
    let mut rest = pattern.chars().peekable();
    let (mut next, mut used) = (0, 0);
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = rest.next_if(|c| matches!(c, '+' | '-' | ' ' | '#' | '0')) {
            match flag {
                '+' => verb.plus = true,
                '-' => verb.minus = true,
                ' ' => verb.space = true,
                '#' => verb.hash = true,
                _ => verb.zero = true,
            }
        }
        verb.width = number(&mut rest)?.unwrap_or(0);
        if rest.next_if_eq(&'.').is_some() {
            verb.precision = Some(number(&mut rest)?.unwrap_or(0));
        }
        if rest.next_if_eq(&'[').is_some() {
            let index = number(&mut rest)?.and_then(|index| index.checked_sub(1));
            next = index.filter(|_| rest.next_if_eq(&']').is_some()).ok_or("`[` needs a number and `]`")?;
        }
        let letter = rest.next().ok_or("the pattern ends after `%`")?;
        if letter == '%' {
            out.push('%');
            continue;
        }
        let value = values.get(next).ok_or_else(|| format!("`%{letter}` has no value"))?;
        next += 1;
        used = used.max(next);
        let shown = show(&verb, letter, value).map_err(|why| format!("value {next}: {why}"))?;
        a.spend(shown.len())?;
        out.push_str(&shown);
    }
    match values.len() > used {
        true => Err(format!("the pattern uses {used} of {} values", values.len()).into()),
        false => Ok(out),
    }
}

fn number(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Outcome<Option<usize>> {
    let mut digits = String::new();
    while let Some(digit) = rest.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    match digits.parse() {
        Ok(number) if number <= MAX_WIDTH => Ok(Some(number)),
        _ if digits.is_empty() => Ok(None),
        _ => Err(format!("a number of a verb is at most {MAX_WIDTH}").into()),
    }
}

fn show(verb: &Verb, letter: char, value: &Value) -> Result<String, String> {
    let whole = || value.to_number()?.as_whole().ok_or_else(|| "expected a whole number".to_owned());
    let float = || value.to_number().map(Number::as_f64);
    let sign = |negative: bool| match (negative, verb.plus, verb.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    let digits = |number: i128, digits: String, prefix: &str| {
        let prefix = if verb.hash { prefix } else { "" };
        (sign(number < 0).to_owned() + prefix, digits)
    };
    let real = |number: f64, digits: String| (sign(number < 0.0).to_owned(), digits);
    let precision = verb.precision.unwrap_or(6);
    let (head, body) = match letter {
        's' | 'q' => {
            let text = match value {
                Value::Null => return Err("it is null".to_owned()),
                value => value.to_text()?.to_string(),
            };
            let text = match verb.precision {
                Some(most) => text.chars().take(most).collect(),
                None => text,
            };
            let text = if letter == 'q' { serde_json::Value::from(text).to_string() } else { text };
            (String::new(), text)
        }
        'v' if !verb.hash => match value {
            Value::String(text) => (String::new(), text.to_string()),
            Value::Number(number) => (String::new(), number.to_string()),
            other => (String::new(), other.to_json().to_string()),
        },
        'v' => (String::new(), value.to_json().to_string()),
        't' => (String::new(), value.to_bool()?.to_string()),
        'd' => whole().map(|n| digits(n, n.unsigned_abs().to_string(), ""))?,
        'b' => whole().map(|n| digits(n, format!("{:b}", n.unsigned_abs()), ""))?,
        'o' => whole().map(|n| digits(n, format!("{:o}", n.unsigned_abs()), "0"))?,
        'x' => whole().map(|n| digits(n, format!("{:x}", n.unsigned_abs()), "0x"))?,
        'X' => whole().map(|n| digits(n, format!("{:X}", n.unsigned_abs()), "0X"))?,
        'f' | 'F' => float().map(|f| real(f, format!("{:.precision$}", f.abs())))?,
        'e' => float().map(|f| real(f, exponent(f.abs(), precision)))?,
        'E' => float().map(|f| real(f, exponent(f.abs(), precision).to_uppercase()))?,
        'g' | 'G' => {
            let shown = match verb.precision {
                Some(digits) => {
                    let float = format!("{:.*e}", digits.saturating_sub(1), float()?.abs());
                    float.parse::<f64>().unwrap_or_default().to_string()
                }
                None => float()?.abs().to_string(),
            };
            real(float()?, shown)
        }
        other => return Err(format!("`%{other}` is not known")),
    };
    let length = head.chars().count() + body.chars().count();
    let missing = verb.width.saturating_sub(length);
    Ok(match (verb.minus, verb.zero) {
        (true, _) => format!("{head}{body}{}", " ".repeat(missing)),
        (_, true) => format!("{head}{}{body}", "0".repeat(missing)),
        _ => format!("{}{head}{body}", " ".repeat(missing)),
    })
}

/// `1.5e+00`: the exponent has a sign and at least two digits.
fn exponent(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}
