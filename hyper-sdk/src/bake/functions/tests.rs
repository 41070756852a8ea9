//! The functions, each by examples.

use super::*;

fn run(name: &str, json: &str) -> Result<String, String> {
    let serde_json::Value::Array(values) = serde_json::from_str(json).unwrap() else { panic!("{json}") };
    let values: Vec<Value> = values.iter().map(Value::from_json).collect();
    let world = World { home: None, now: 0, random: &|| u128::MAX };
    let result = call(name, &values, &world, &Budget::new()).map_err(|fault| fault.message)?;
    Ok(result.to_json().to_string())
}

#[test]
fn every_function_gives_what_it_says() {
    for (name, arguments, expected) in [
        ("absolute", "[-3.5]", "3.5"),
        ("basename", r#"["/a/b/c.txt"]"#, r#""c.txt""#),
        ("dirname", r#"["a//b/"]"#, r#""a/b""#),
        ("bytes", "[]", "!"),
        ("byteslen", r#"["hé"]"#, "3"),
        ("ceil", "[-1.2]", "-1"),
        ("chomp", r#"["a\n\n"]"#, r#""a""#),
        ("chunklist", r#"[["a","b","c"],2]"#, r#"[["a","b"],["c"]]"#),
        ("cidrhost", r#"["10.12.127.0/20",268]"#, r#""10.12.113.12""#),
        ("cidrhost", r#"["fd00:fd12:3456:7890:00a2::/72",34]"#, r#""fd00:fd12:3456:7890::22""#),
        ("cidrnetmask", r#"["172.16.0.0/12"]"#, r#""255.240.0.0""#),
        ("cidrsubnet", r#"["172.16.0.0/12",4,2]"#, r#""172.18.0.0/16""#),
        (
            "cidrsubnets",
            r#"["10.1.0.0/16",4,4,8,4]"#,
            r#"["10.1.0.0/20","10.1.16.0/20","10.1.32.0/24","10.1.48.0/20"]"#,
        ),
        ("coalesce", r#"[null,"a"]"#, r#""a""#),
        ("compact", r#"[["a","",null]]"#, r#"["a"]"#),
        ("contains", r#"[["a"],"a"]"#, "true"),
        ("csvdecode", r#"["a,b\n1,\"x,y\"\n"]"#, r#"[{"a":"1","b":"x,y"}]"#),
        ("distinct", r#"[["a","b","a"]]"#, r#"["a","b"]"#),
        ("divide", "[7,2]", "3.5"),
        ("element", r#"[["a","b","c"],4]"#, r#""b""#),
        ("flatten", r#"[[["a"],["b",["c"]]]]"#, r#"["a","b","c"]"#),
        (
            "format",
            r#"["%s|%05.2f|%-4s|%q|%x|%[1]s%%","a",3.14159,"b","c",255]"#,
            r#""a|03.14|b   |\"c\"|ff|a%""#,
        ),
        (
            "formatdate",
            r#"["YYYY-MM-DD'T'hh:mm:ssZ EEE MMM","2024-02-29T15:04:05Z"]"#,
            r#""2024-02-29T15:04:05Z Thu Feb""#,
        ),
        ("formatlist", r#"["%s-%s",["a","b"],"x"]"#, r#"["a-x","b-x"]"#),
        ("formattimestamp", r#"["X","1970-01-02T00:00:00+01:00"]"#, r#""82800""#),
        ("hasindex", r#"[{"a":1},"b"]"#, "false"),
        ("indent", r#"[2,"a\nb"]"#, r#""a\n  b""#),
        ("indexof", r#"[["a","b"],"b"]"#, "1"),
        ("int", "[-2.9]", "-2"),
        ("join", r#"[",",["a",1]]"#, r#""a,1""#),
        ("jsonencode", r#"[{"a":"<&>"}]"#, r#""{\"a\":\"\\u003c\\u0026\\u003e\"}""#),
        ("keys", r#"[{"b":1,"a":2}]"#, r#"["a","b"]"#),
        ("length", r#"[{"a":1}]"#, "1"),
        ("lookup", r#"[{"a":1},"b","d"]"#, r#""d""#),
        ("max", "[1,5,3]", "5"),
        ("md5", r#"["hello"]"#, r#""5d41402abc4b2a76b9719d911017c592""#),
        ("merge", r#"[{"a":1},null,{"a":2}]"#, r#"{"a":2}"#),
        ("modulo", "[-7,3]", "-1"),
        ("parseint", r#"["ff",16]"#, "255"),
        ("pow", "[2,10]", "1024"),
        ("range", "[4,1]", "[4,3,2]"),
        ("regex", r#"["(?P<x>\\d+)","a12"]"#, r#"{"x":"12"}"#),
        ("regex_replace", r#"["v1.2","v(\\d).(\\d)","$2-$1"]"#, r#""2-1""#),
        ("regexall", r#"["[a-z]","1a2b"]"#, r#"["a","b"]"#),
        ("reverse", r#"["abc"]"#, r#""cba""#),
        ("sanitize", r#"["a.b/c d-e"]"#, r#""a_b_c_d-e""#),
        ("setintersection", r#"[["a","b"],["b","c"]]"#, r#"["b"]"#),
        ("setproduct", r#"[["a"],["x","y"]]"#, r#"[["a","x"],["a","y"]]"#),
        ("setsubtract", r#"[["a","b"],["b"]]"#, r#"["a"]"#),
        ("setsymmetricdifference", r#"[["a","b"],["b","c"]]"#, r#"["a","c"]"#),
        ("setunion", r#"[["c","a"],["b"]]"#, r#"["a","b","c"]"#),
        ("sha1", r#"["hello"]"#, r#""aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d""#),
        ("signum", "[-4]", "-1"),
        ("slice", r#"[["a","b","c"],1,3]"#, r#"["b","c"]"#),
        ("sort", r#"[["b","a"]]"#, r#"["a","b"]"#),
        ("split", r#"[",","a,,b"]"#, r#"["a","","b"]"#),
        ("substr", r#"["hello",-3,2]"#, r#""ll""#),
        ("timeadd", r#"["2024-02-28T23:30:00Z","1h30m"]"#, r#""2024-02-29T01:00:00Z""#),
        ("title", r#"["hello foo-bar"]"#, r#""Hello Foo-Bar""#),
        ("trim", r#"["?!hi!?","!?"]"#, r#""hi""#),
        ("trimprefix", r#"["foobar","foo"]"#, r#""bar""#),
        ("urlencode", r#"["a b&é"]"#, r#""a+b%26%C3%A9""#),
        ("uuidv4", "[]", r#""ffffffff-ffff-4fff-bfff-ffffffffffff""#),
        ("uuidv5", r#"["dns","example.com"]"#, r#""cfbff0d1-9375-5685-968c-48ce8b15ae17""#),
        ("values", r#"[{"b":1,"a":"x"}]"#, r#"["x",1]"#),
        ("zipmap", r#"[["a","b"],[1,2]]"#, r#"{"a":1,"b":2}"#),
    ] {
        if expected == "!" {
            assert!(run(name, arguments).is_err(), "{name}");
            continue;
        }
        assert_eq!(run(name, arguments).as_deref(), Ok(expected), "{name}{arguments}");
    }
}

#[test]
fn versions_satisfy_constraints() {
    for (version, constraint, expected) in [
        ("v1.2.3", ">=1.2", true),
        ("2.0.0", "^1", false),
        ("0.2.5", "^0.2.3", true),
        ("0.3.0", "^0.2.3", false),
        ("1.3.0", "~1.2", false),
        ("1.3.0", "~1", true),
        ("1.5.0", "1.x", true),
        ("1.5.0", "1.2 - 1.6", true),
        ("1.5.0", ">=1, <2", true),
        ("1.5.0", ">1, <2", false),
        ("1.5.0", "<1 || >= 1.5", true),
        ("1.5.0-rc1", ">=1.4", false),
        ("1.5.0-rc1", ">=1.4-0", true),
        ("1.5.9", ">1.5", false),
        ("1.5.9", "<=1.5", true),
        ("0.0.4", "^0.0.3", false),
        ("1.0.0", "*", true),
    ] {
        let arguments = format!("[\"{version}\",\"{constraint}\"]");
        assert_eq!(run("semvercmp", &arguments).unwrap(), expected.to_string(), "{arguments}");
    }
}

#[test]
fn times_have_calendars() {
    let part = |seconds: i64, name: &str| {
        let parts: serde_json::Value =
            serde_json::from_str(&run("unixtimestampparse", &format!("[{seconds}]")).unwrap()).unwrap();
        parts[name].to_string()
    };
    assert_eq!(part(-1, "rfc3339"), r#""1969-12-31T23:59:59Z""#);
    assert_eq!((part(1_704_067_200, "iso_week"), part(1_704_067_200, "year_day")), ("1".into(), "1".into()));
    assert_eq!(
        (part(1_609_459_200, "iso_year"), part(1_609_459_200, "iso_week")),
        ("2020".into(), "53".into())
    );
    assert_eq!(part(951_782_400, "rfc3339"), r#""2000-02-29T00:00:00Z""#);
}

#[test]
fn wrong_arguments_are_errors() {
    for (name, arguments, why) in [
        ("upper", "[]", "expected 1 arguments"),
        ("element", "[[],0]", "empty"),
        ("parseint", r#"["zz",10]"#, "base 10"),
        ("regex", r#"["(","a"]"#, "the pattern is wrong"),
        ("regex", r#"["z","a"]"#, "matches no part"),
        ("range", "[2000]", "at most 1024"),
        ("range", "[0,10,-1]", "does not lead"),
        ("slice", r#"[["a"],1,0]"#, "not a part"),
        ("format", r#"["%d","x"]"#, "expected a number"),
        ("format", r#"["%s"]"#, "no value"),
        ("format", r#"["x",1]"#, "uses 0 of 1"),
        ("formatdate", r#"["q","2024-01-01T00:00:00Z"]"#, "no part of a time"),
        ("timeadd", r#"["2024-13-01T00:00:00Z","1h"]"#, "is not a time"),
        ("base64decode", r#"["!"]"#, "not base64"),
        ("jsondecode", r#"["{"]"#, "not JSON"),
        ("csvdecode", r#"["a,b\n1\n"]"#, "has 1 columns"),
        ("cidrhost", r#"["10.0.0.0/30",9]"#, "no such host"),
        ("cidrsubnet", r#"["10.0.0.0/30",9,0]"#, "not so many bits"),
        ("rsadecrypt", "[]", "not supported"),
        ("nofn", "[]", "no function"),
    ] {
        let e = run(name, arguments).unwrap_err();
        assert!(e.contains(why), "{name}{arguments}: {e}");
    }
}
