//! Values of SOURCE_DATE_EPOCH, and what steps see.

use super::*;

#[tokio::test]
async fn the_epoch_is_a_number_the_context_or_a_stage() {
    let text = "ARG SOURCE_DATE_EPOCH=77\nFROM scratch AS source\nADD https://x/y.git /\nFROM base\nARG SOURCE_DATE_EPOCH\nRUN x\n";
    let with = async |value: Option<&str>| {
        let mut options = FrontendOptions::default();
        options.build_args.extend(value.map(|v| ("SOURCE_DATE_EPOCH".to_owned(), v.to_owned())));
        let images = Images(Some(55));
        let l = lower_dockerfile("Dockerfile", text, &options, &images, &mut Vec::new()).await.unwrap();
        let Op::Exec(exec) = root(&l) else { panic!("no command") };
        let seen = exec.env.iter().find(|(n, _)| n == "SOURCE_DATE_EPOCH").map(|(_, v)| v.clone());
        (l.epoch, seen.unwrap_or_default())
    };
    assert_eq!(with(None).await, (Some(77), "77".to_owned()));
    assert_eq!(with(Some("5")).await, (Some(5), "5".to_owned()));
    assert_eq!(with(Some("context")).await, (Some(55), "55".to_owned()));
    assert_eq!(with(Some("source")).await, (Some(1234), "1234".to_owned()));
    // Steps see an empty value for an object without a time, never its name.
    for (default, given) in
        [("context", None), ("empty", None), ("77", Some("context")), ("77", Some("empty"))]
    {
        let text = format!(
            "ARG SOURCE_DATE_EPOCH={default}\nFROM scratch AS empty\nCOPY x /\nFROM base\n\
             ARG SOURCE_DATE_EPOCH\nRUN x\nENV E=[$SOURCE_DATE_EPOCH]\n"
        );
        let mut options = FrontendOptions::default();
        options.build_args.extend(given.map(|g| ("SOURCE_DATE_EPOCH".to_owned(), g.to_owned())));
        let l = try_lower(&text, options).await.unwrap();
        assert_eq!((l.epoch, l.config.config.env[1].as_str()), (None, "E=[]"), "{default} {given:?}");
        let Op::Exec(exec) = root(&l) else { panic!("no command") };
        let seen = exec.env.iter().find(|(name, _)| name == "SOURCE_DATE_EPOCH");
        assert!(seen.is_none_or(|(_, value)| value.is_empty()), "{seen:?}");
    }
    // An empty build argument does not replace the default of the stage.
    let text = "FROM base\nARG SOURCE_DATE_EPOCH=7\nENV E=$SOURCE_DATE_EPOCH\n";
    let options = FrontendOptions {
        build_args: [("SOURCE_DATE_EPOCH".to_owned(), String::new())].into(),
        ..FrontendOptions::default()
    };
    assert_eq!(try_lower(text, options).await.unwrap().config.config.env[1], "E=7");
}

#[tokio::test]
async fn a_wrong_epoch_of_the_text_is_shown_there() {
    let text = "ARG SOURCE_DATE_EPOCH=sauce\nFROM scratch AS source\nADD https://x/y.git /\nFROM base\n";
    let message = try_lower(text, FrontendOptions::default()).await.unwrap_err().to_string();
    for part in
        ["Dockerfile:1:23", "`sauce` is not a value of SOURCE_DATE_EPOCH", "did you mean the stage `source`?"]
    {
        assert!(message.contains(part), "{part}: {message}");
    }
    // A build argument is not in the text.
    let build_args = [("SOURCE_DATE_EPOCH".to_owned(), "sauce".to_owned())].into();
    let options = FrontendOptions { build_args, ..FrontendOptions::default() };
    let message = try_lower(text, options).await.unwrap_err().to_string();
    assert!(message.contains("the build argument") && !message.contains("Dockerfile:"), "{message}");
}
