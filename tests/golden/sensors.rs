//! docs/sensors.md names every device whose output was captured, with the format that reads it.

use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn the_table_of_devices_names_every_capture_and_its_format() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut captures = BTreeMap::new();
    for folder in std::fs::read_dir(root.join("tests/captures")).unwrap().flatten() {
        let Ok(text) = std::fs::read_to_string(folder.path().join("gateway.toml")) else {
            continue;
        };
        let said = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{key} = ")));
            line.and_then(|line| line.split('"').nth(1)).map(str::to_owned)
        };
        let format = said("format").unwrap_or_else(|| "native".to_owned());
        captures.insert(folder.file_name().into_string().unwrap(), format);
    }
    assert!(captures.len() >= 12, "only {} captures found", captures.len());
    let text = std::fs::read_to_string(root.join("docs/sensors.md")).unwrap();
    let devices = text.split("\n## ").find(|part| part.starts_with("Devices")).unwrap();
    let mut named = BTreeMap::new();
    for row in devices.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let formats = cells[3].split(", ").cycle();
        for (folder, format) in cells[2].split(", ").zip(formats) {
            named.insert(folder.trim_matches('`').to_owned(), format.to_owned());
        }
    }
    assert_eq!(named, captures);
}
