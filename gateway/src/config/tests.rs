//! Every mistake is named with its key, its value and what is allowed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::serial::Place;

fn env<'a>(pairs: &'a [(&str, &str)]) -> impl Iterator<Item = (String, String)> + 'a {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, env(&[]))
}

/// A valid configuration with these lines after `[device]`.
fn with(lines: &str) -> Result<Config, ConfigErrors> {
    parse(&format!("[device]\nid = \"pi-1\"\n{lines}"))
}

/// What is said about a configuration that is refused for one mistake.
#[track_caller]
fn mistake(lines: &str) -> String {
    let errors = with(lines).expect_err(lines);
    assert_eq!(errors.iter().len(), 1, "{errors}");
    errors.to_string()
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// The template with every key that it shows in a comment.
fn uncommented() -> String {
    let lines = TEMPLATE.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_template_is_a_valid_configuration_of_a_local_recorder() {
    let config = parse(TEMPLATE).unwrap();
    assert!(config.broker.is_none());
    assert!(config.ports.is_empty() && config.system.enabled);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn the_template_shows_every_key() {
    let config = parse(&uncommented()).unwrap();
    let shown = config.redacted().to_string();
    assert!(!shown.contains("# default"), "not in the template: {shown}");
    assert_eq!(config.ports.len(), 1);
    assert_eq!(config.broker.unwrap().login.unwrap().username, "gateway-1");
    assert_eq!(config.meta.sources["fruiting"].metrics["temp"].unit.as_deref(), Some("°C"));
}

#[test]
fn the_template_shows_the_defaults() {
    let shown = |text: &str| parse(text).unwrap().redacted().to_string().replace("  # default", "");
    let (as_it_stands, all) = (shown(TEMPLATE), shown(&uncommented()));
    for section in ["[outbox]", "[publish]", "[system]", "[alerts]", "[status]", "[control]"] {
        let of = |shown: &str| {
            shown.split("\n\n").find(|part| part.starts_with(section)).unwrap().trim().to_owned()
        };
        assert_eq!(of(&as_it_stands), of(&all));
    }
}

#[test]
fn defaults_are_those_of_the_design() {
    let config = with("[broker]\nhost = \"b\"").unwrap();
    let broker = config.broker.unwrap();
    assert_eq!((broker.port, broker.keep_alive), (8883, Duration::from_secs(20)));
    assert_eq!(broker.tls.unwrap().ca, Ca::System);
    assert_eq!(config.outbox.commit_interval, Duration::from_secs(1));
    assert_eq!(config.outbox.retention_size, 64_000_000);
    assert_eq!(config.publish.live_interval, Some(Duration::from_secs(5)));
    let clear = with("[broker]\nhost = \"b\"\ntls = false").unwrap().broker.unwrap();
    assert_eq!((clear.port, clear.tls.is_none()), (1883, true));
}

#[test]
fn a_port_takes_its_defaults_from_its_format() {
    let config = with(
        "[[port]]\nname = \"a\"\npath = \"/dev/a\"\n[[port]]\nname = \"b\"\npath = \"/dev/b\"\nformat = \"json\"\nbaud = 9600",
    )
    .unwrap();
    let [a, b] = &config.ports[..] else { panic!("two ports") };
    let device = |path: &str, baud| Place::Device { path: path.into(), baud, reset_on_open: true };
    assert_eq!((&a.place, &a.format), (&device("/dev/a", 115_200), &Format::Native));
    assert_eq!((&b.place, &b.format), (&device("/dev/b", 9_600), &Format::Json));
    assert_eq!((a.checksum, b.checksum), (Checksum::Required, Checksum::Optional));
}

#[test]
fn all_mistakes_are_reported_together() {
    let text = "
        [device]
        name = 5
        [outbox]
        commit_interval = \"1ms\"
        retention_sise = \"1GB\"
        [brocker]
        host = \"b\"
        [[port]]
        name = \"alerts\"
        path = \"/dev/a\"
    ";
    let errors = parse(text).unwrap_err();
    assert_eq!(errors.iter().len(), 6, "{errors}");
    assert_says(
        &errors.to_string(),
        &[
            "has 6 mistakes",
            "device.id is missing: give the gateway a name",
            "device.name = 5: write it in quotes",
            "outbox.commit_interval = \"1ms\": allowed are 50ms to 1m",
            "outbox.retention_sise: there is no such key. Did you mean retention_size?",
            "brocker: there is no such key. Did you mean broker?",
            "source \"alerts\" is reserved",
        ],
    );
}

#[test]
fn each_bad_value_is_named_with_what_is_allowed() {
    let cases: [(&str, &[&str]); 19] = [
        (
            "[outbox]\nretention_age = \"1w\"",
            &["outbox.retention_age = \"1w\"", "ms, s, m, h, d", "0s to 3650d"],
        ),
        (
            "[outbox]\nsize_max = \"1MB\"",
            &["outbox.size_max = \"1MB\"", "allowed are 4MiB to 1024GiB"],
        ),
        (
            "[outbox]\nsize_max = 64",
            &["outbox.size_max = 64", "write it in quotes, and with its unit"],
        ),
        (
            "[outbox]\nwhen_full = \"drop\"",
            &["outbox.when_full = \"drop\"", "\"refuse\"", "\"drop_oldest\""],
        ),
        ("[outbox]\nqueue_readings = 0", &["outbox.queue_readings = 0", "1 to 1000000"]),
        (
            "[outbox]\nqueue_readings = \"9\"",
            &["queue_readings = \"9\"", "whole number, without quotes"],
        ),
        (
            "[publish]\nbatch_readings_max = 1001",
            &["publish.batch_readings_max = 1001", "1 to 1000"],
        ),
        (
            "[publish]\nlive_interval = \"never\"",
            &["publish.live_interval", "100ms to 1h, or \"off\""],
        ),
        (
            "[publish]\ntopic_prefix = \"a/\"",
            &["publish.topic_prefix = \"a/\"", "no / at either end"],
        ),
        (
            "[system]\nenabled = \"yes\"",
            &["system.enabled = \"yes\"", "true or false, without quotes"],
        ),
        ("[broker]\nhost = \"mqtts://b\"", &["broker.host = \"mqtts://b\"", "host name alone"]),
        ("[broker]\nhost = \"b\"\nport = 0", &["broker.port = 0", "1 to 65535"]),
        (
            "[broker]\nhost = \"b\"\nkeep_alive = \"5500ms\"",
            &["broker.keep_alive", "whole seconds"],
        ),
        ("[broker]\nport = 1", &["broker.host is missing", "leave out the section [broker]"]),
        ("[[port]]\nname = \"a\"", &["port.a.path is missing", "/dev/serial/by-id"]),
        ("[[port]]\npath = \"/dev/a\"", &["port[1].name is missing"]),
        (
            "[[port]]\nname = \"a\"\npath = \"/a\"\nbaud = 49",
            &["port.a.baud = 49", "50 to 4000000"],
        ),
        (
            "[[port]]\nname = \"a\"\npath = \"/a\"\nformat = \"csv\"",
            &["port.a.format = \"csv\"", "\"native\" \"json\" \"plotter\""],
        ),
        ("[port]\nname = \"a\"", &["port = ", "write [[port]] with two brackets"]),
    ];
    for (lines, parts) in cases {
        assert_says(&mistake(lines), parts);
    }
    let bad_id = parse("[device]\nid = \"a/b\"").unwrap_err().to_string();
    assert_says(&bad_id, &["device.id = \"a/b\"", "allowed are A-Z a-z 0-9 . _ -"]);
}

#[test]
fn unknown_keys_are_refused_wherever_they_stand() {
    assert_says(
        &mistake("[publish]\ninterval = \"1s\""),
        &["publish.interval", "Keys of [publish] are: publish_interval"],
    );
    assert_says(
        &mistake("[[port]]\nname = \"a\"\npath = \"/a\"\nbuad = 9600"),
        &["port.a.buad", "Did you mean baud?"],
    );
    assert_says(
        &mistake("[meta.sources.a]\nnmae = \"x\""),
        &["meta.sources.a.nmae", "Did you mean name?"],
    );
    assert_says(
        &mistake("[meta.sources.a.metrics.t]\nunits = \"x\""),
        &["meta.sources.a.metrics.t.units", "unit?"],
    );
    assert_says(
        &mistake("[meta.source.a]\nname = \"x\""),
        &["meta.source", "Did you mean sources?"],
    );
    let root = parse("id = \"x\"\n[device]\nid = \"x\"").unwrap_err().to_string();
    assert_says(&root, &["id: there is no such key", "below the [section]"]);
}

#[test]
fn keys_that_do_not_go_together_are_refused() {
    let broker = |lines: &str| mistake(&format!("[broker]\nhost = \"b\"\n{lines}"));
    assert_says(
        &broker("client_cert = \"/c\""),
        &["broker.client_cert, broker.client_key", "write both, or neither"],
    );
    assert_says(&broker("tls = false\nca = \"/c\""), &["broker.ca", "set tls = true"]);
    assert_says(&broker("username = \"u\""), &["broker.username", "broker.password"]);
    assert_says(&broker("password = \"p\""), &["broker.password", "needs broker.username"]);
    let twice = "username = \"u\"\npassword = \"p\"\npassword_file = \"/p\"";
    assert_says(&broker(twice), &["broker.password, broker.password_file", "stands twice"]);
}

#[test]
fn a_command_is_not_called_as_the_gateway_s_own_question_or_commands() {
    let port = "[[port]]\nname = \"fruiting\"\npath = \"/dev/x\"\n";
    let named = |name: &str| format!("{port}[[command]]\nname = {name:?}\nport = \"fruiting\"");
    let commands = with(&named("lasting")).unwrap().commands;
    assert_eq!(commands.boards["lasting"].line_bytes_max, 4_096);
    assert_says(
        &mistake(&named("last")),
        &["\"last\" is how the gateway asks a board", "choose another"],
    );
    assert_says(&mistake(&named("ping")), &["\"ping\" is a command of the gateway itself"]);
    let long = format!("{}\nline_bytes_max = 5000", named("led"));
    assert_says(&mistake(&long), &["line_bytes_max = 5000", "32 to 4096"]);
}

#[test]
fn what_cannot_be_announced_to_home_assistant_is_refused() {
    let on = |lines: &str| mistake(&format!("[home_assistant]\nenabled = true\n{lines}"));
    let said = on("[publish]\nlive_interval = \"off\"");
    assert_says(&said, &["home_assistant.enabled, publish.live_interval", "reads the live values"]);
    let said = on("prefix = \"devices/ha\"");
    assert_says(&said, &["home_assistant.prefix", "Fieldpost's own", "such as \"homeassistant\""]);
    assert_says(
        &on("prefix = \"ha/\""),
        &["home_assistant.prefix = \"ha/\"", "no / at either end"],
    );
    assert_says(&on("prefix = \"\""), &["home_assistant.prefix", "it is empty"]);
    assert_says(&on("expire_after = \"1s\""), &["allowed are 10s to 7d, or \"off\""]);
    let dotted = "[device]\nid = \"pi.1\"\n[home_assistant]\nenabled = true";
    let said = parse(dotted).unwrap_err().to_string();
    assert_says(&said, &["home_assistant.enabled, device.id", "no dot"]);
    let hosted = "[publish]\ntopic_prefix = \"devices/farm\"\n[home_assistant]\nprefix = \"devices/farm/ha\"";
    assert!(with(hosted).is_ok());
    let variable = env(&[("FIELDPOST_HOME_ASSISTANT_EXPIRE_AFTER", "5m")]);
    let config = Config::parse("[device]\nid = \"pi-1\"", variable).unwrap();
    assert_eq!(config.home_assistant.expire_after, Some(Duration::from_secs(300)));
}

#[test]
fn ports_have_names_and_paths_of_their_own() {
    let port = |name: &str, path: &str| format!("[[port]]\nname = \"{name}\"\npath = \"{path}\"\n");
    let same_name = mistake(&(port("a", "/dev/a") + &port("a", "/dev/b")));
    assert_says(&same_name, &["two ports are named \"a\""]);
    let same_path = mistake(&(port("a", "/dev/a") + &port("b", "/dev/a")));
    assert_says(&same_path, &["port.b.path", "\"a\" has the same path"]);
    assert_says(
        &mistake(&port("system", "/dev/a")),
        &["port.system.name, system.enabled", "rename the port"],
    );
    assert!(with(&("[system]\nenabled = false\n".to_owned() + &port("system", "/dev/a"))).is_ok());
}

#[test]
fn a_gateway_with_nothing_to_read_from_is_refused() {
    let message = mistake("[system]\nenabled = false");
    assert_says(&message, &["port, system.enabled", "nothing to read from", "add a [[port]]"]);
}

#[test]
fn the_environment_replaces_the_file() {
    let variables = [
        ("FIELDPOST_DEVICE_ID", "pi-2"),
        ("FIELDPOST_BROKER_HOST", "b"),
        ("FIELDPOST_BROKER_USERNAME", "u"),
        ("FIELDPOST_BROKER_PASSWORD", "p"),
        ("FIELDPOST_BROKER_TLS", "false"),
        ("FIELDPOST_OUTBOX_QUEUE_READINGS", "16"),
        ("FIELDPOST_LOG", "debug"),
        ("HOME", "/root"),
    ];
    let config = Config::parse("[device]\nid = \"pi-1\"", env(&variables)).unwrap();
    assert_eq!(config.device.id.as_str(), "pi-2");
    assert_eq!(config.outbox.queue_readings, 16);
    let broker = config.broker.as_ref().unwrap();
    assert_eq!((broker.host.as_str(), broker.port), ("b", 1883));
    assert_eq!(broker.login.as_ref().unwrap().password, Password::Text("p".into()));
    assert_says(&config.redacted().to_string(), &["id = \"pi-2\"  # from FIELDPOST_DEVICE_ID"]);
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let variables = [
        ("FIELDPOST_OUTBOX_QUEUE_READINGS", "many"),
        ("FIELDPOST_OUTBOX_SISE_MAX", "1GB"),
        ("FIELDPOST_PORT_PATH", "/dev/a"),
    ];
    let errors = Config::parse("[device]\nid = \"a\"", env(&variables)).unwrap_err();
    assert_says(
        &errors.to_string(),
        &[
            "outbox.queue_readings = many (from FIELDPOST_OUTBOX_QUEUE_READINGS): allowed are",
            "outbox.sise_max: there is no such key (from FIELDPOST_OUTBOX_SISE_MAX). Did you mean size_max?",
            "FIELDPOST_PORT_PATH: [port] cannot be set by the environment",
        ],
    );
    let config =
        Config::parse("[device]\nid = \"a\"", env(&[("FIELDPOST_BROKR_HOST", "b")])).unwrap();
    assert_says(&config.warnings[0], &["FIELDPOST_BROKR_HOST is ignored", "Did you mean broker?"]);
}

#[test]
fn a_password_is_never_shown() {
    let login = "[broker]\nhost = \"b\"\nusername = \"u\"\npassword = \"sesame\"";
    let config = with(login).unwrap();
    for shown in [config.redacted().to_string(), format!("{config:?}")] {
        assert_says(&shown, &["hidden"]);
        assert!(!shown.contains("sesame"), "{shown}");
    }
    for wrong in ["password = [\"sesame\"]", "password = \"sesame", "password = sesame"] {
        let errors =
            with(&format!("[broker]\nhost = \"b\"\nusername = \"u\"\n{wrong}")).unwrap_err();
        assert!(!errors.to_string().contains("sesame"), "{errors}");
    }
}

#[test]
fn what_is_printed_is_the_same_configuration() {
    let config = parse(&uncommented()).unwrap();
    let again = parse(&config.redacted().to_string()).unwrap();
    assert_eq!(again.redacted().to_string(), config.redacted().to_string());
    assert_eq!(again.ports, config.ports);
    assert_eq!(again.meta, config.meta);
}

#[test]
fn a_syntax_error_is_named_by_its_line() {
    let message = parse("[device]\nid = \"a\"\nname = Farm\n").unwrap_err().to_string();
    assert_says(&message, &["line 3, column 8"]);
}

#[test]
fn a_device_name_that_may_change_is_a_warning() {
    let config = with("[[port]]\nname = \"a\"\npath = \"/dev/ttyUSB0\"").unwrap();
    assert_says(&config.warnings[0], &["port.a.path = \"/dev/ttyUSB0\"", "/dev/serial/by-id"]);
}

#[test]
fn a_missing_configuration_says_where_a_template_is() {
    let errors = Config::load(Path::new("/nowhere/gateway.toml"), env(&[])).unwrap_err();
    assert_says(
        &errors.to_string(),
        &["/nowhere/gateway.toml", "`fieldpost-gateway config` prints a template"],
    );
}

#[test]
fn a_password_that_everybody_may_read_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let login = "[device]\nid = \"a\"\n[broker]\nhost = \"b\"\nusername = \"u\"\n";
    let warnings = |text: &str, mode: u32, variables: &[(&str, &str)]| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Config::load(&path, env(variables)).unwrap().warnings
    };
    let in_file = format!("{login}password = \"p\"");
    assert_says(&warnings(&in_file, 0o644, &[])[0], &["broker.password", "chmod 640"]);
    assert!(warnings(&in_file, 0o640, &[]).is_empty());
    assert!(warnings(login, 0o644, &[("FIELDPOST_BROKER_PASSWORD", "p")]).is_empty());
}

#[test]
fn files_that_cannot_be_read_are_named_together() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(folder.path().join("key"), "key").unwrap();
    fs::set_permissions(folder.path().join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    let broker = |cert: &str| {
        format!(
            "[broker]\nhost = \"b\"\nca = \"{}\"\nclient_cert = \"{cert}\"\nclient_key = \"{}\"",
            at("key"),
            at("key")
        )
    };
    let errors = with(&broker(&at("none"))).unwrap().check_files().unwrap_err().to_string();
    assert_says(&errors, &["broker.client_cert", "/none", "Check the path"]);
    assert!(!errors.contains("broker.ca"), "{errors}");
    let errors = with(&broker(&at("empty"))).unwrap().check_files().unwrap_err().to_string();
    assert_says(&errors, &["broker.client_cert", "it is empty"]);
    let warnings = with(&broker(&at("key"))).unwrap().check_files().unwrap();
    assert_says(&warnings[0], &["broker.client_key", "chmod 640"]);
}

#[test]
fn a_password_file_is_its_first_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "sesame\r\n").unwrap();
    assert_eq!(Password::File(file.path().to_owned()).read().unwrap(), "sesame");
}

#[test]
fn what_is_no_file_is_refused_and_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (path, what) in [(fifo.as_path(), "FIFO"), (dir.path(), "directory")] {
        let refused = Config::load(path, env(&[])).unwrap_err().to_string();
        assert!(refused.contains(&path.display().to_string()), "{refused}");
        assert!(refused.contains(what), "{refused}");
        let text = format!("[broker]\nhost = \"h\"\nca = {path:?}\n");
        let refused = with(&text).unwrap().check_files().unwrap_err().to_string();
        assert!(refused.contains(what) && refused.contains("broker.ca"), "{refused}");
    }
}

mod ports;
