//! avr-gcc, as the Arduino IDE runs it, and the simulator.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::library;

/// Debian's package of the Arduino core.
const CORE: &str = "/usr/share/arduino/hardware/arduino/avr";
/// As the Arduino IDE builds, but for the last: this core and Debian's compiler differ in whether
/// the macro has a value.
const FLAGS: [&str; 7] = [
    "-DF_CPU=16000000L",
    "-DARDUINO=10807",
    "-DARDUINO_ARCH_AVR",
    "-Os",
    "-ffunction-sections",
    "-fdata-sections",
    "-DDECIMAL_DIG=__DECIMAL_DIG__",
];
const FLAGS_CPP: [&str; 3] = ["-std=gnu++11", "-fno-exceptions", "-fno-threadsafe-statics"];
const FLAGS_LINK: [&str; 2] = ["-flto", "-fuse-linker-plugin"];

/// Which board a sketch is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The one that is simulated.
    Uno,
    /// Four serial ports.
    Mega,
    /// `Serial` is USB.
    Leonardo,
}

impl Target {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Target::Uno => &["-mmcu=atmega328p", "-DARDUINO_AVR_UNO"],
            Target::Mega => &["-mmcu=atmega2560", "-DARDUINO_AVR_MEGA2560"],
            Target::Leonardo => &[
                "-mmcu=atmega32u4",
                "-DARDUINO_AVR_LEONARDO",
                "-DUSB_VID=0x2341",
                "-DUSB_PID=0x8036",
                "-DUSB_MANUFACTURER=\"Arduino\"",
                "-DUSB_PRODUCT=\"Leonardo\"",
            ],
        }
    }

    fn variant(self) -> &'static str {
        match self {
            Target::Uno => "standard",
            Target::Mega => "mega",
            Target::Leonardo => "leonardo",
        }
    }
}

/// Bytes of memory, as avr-size and the IDE count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Code and constants.
    pub flash: u64,
    /// Variables, without the stack.
    pub ram: u64,
}

/// The core and the simulator, compiled once.
#[derive(Debug)]
pub struct Toolchain {
    dir: PathBuf,
}

impl Toolchain {
    /// Compiles the core and the simulator. What lasts goes into `dir`, each file put there in one
    /// step: another test run may be using the one before.
    ///
    /// # Errors
    /// What is not installed, and what the compilers say.
    pub fn new(dir: &Path) -> anyhow::Result<Toolchain> {
        ensure!(
            Path::new(CORE).exists(),
            "these tests need the Arduino core: apt-get install arduino-core-avr; scripts/test does it"
        );
        let tools = Toolchain { dir: dir.join("avr") };
        std::fs::create_dir_all(&tools.dir)?;
        let objects = tempfile::tempdir_in(&tools.dir)?;
        let mut linked = Vec::new();
        for folder in ["cores/arduino", "libraries/SoftwareSerial/src"] {
            for source in sources(&Path::new(CORE).join(folder))? {
                // This core has a few warnings of its own.
                linked.push(compile(Target::Uno, &source, objects.path(), &["-flto", "-w"])?);
            }
        }
        let core = objects.path().join("core.a");
        run(Command::new("avr-gcc-ar").arg("rcs").arg(&core).args(&linked))?;
        std::fs::rename(core, tools.core())?;
        let board = objects.path().join("board");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/avr/board.c");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&board).arg(source);
        run(cc.args(["-lsimavr", "-lelf"]))
            .context("needs libsimavr-dev and libelf-dev; scripts/test installs them")?;
        std::fs::rename(board, tools.board())?;
        Ok(tools)
    }

    /// The simulator.
    pub(super) fn board(&self) -> PathBuf {
        self.dir.join("board")
    }

    fn core(&self) -> PathBuf {
        self.dir.join("core.a")
    }

    /// Compiles a sketch with the library for an Uno; returns the firmware, which lasts as long as
    /// `dir`.
    ///
    /// # Errors
    /// What the compiler says; a warning is an error.
    pub fn build(&self, sketch: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
        let objects =
            [self.sketch(Target::Uno, sketch, dir)?, self.compile_library(Target::Uno, dir, true)?];
        let firmware = dir.join("firmware.elf");
        let mut gcc = compiler(Target::Uno);
        gcc.args(FLAGS_LINK).arg("-Wl,--gc-sections").args(objects).arg(self.core());
        run(gcc.args(["-lm", "-o"]).arg(&firmware))?;
        Ok(firmware)
    }

    /// Compiles a sketch and the library for any board, without linking them.
    ///
    /// # Errors
    /// What the compiler says; a warning is an error.
    pub fn check(&self, target: Target, sketch: &Path, dir: &Path) -> anyhow::Result<()> {
        self.sketch(target, sketch, dir)?;
        self.compile_library(target, dir, true)?;
        Ok(())
    }

    fn sketch(&self, target: Target, sketch: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
        let source = dir.join("sketch.cpp");
        // The IDE does the same; our sketches need no prototypes.
        std::fs::write(&source, format!("#include <Arduino.h>\n#include {sketch:?}\n"))?;
        compile(target, &source, dir, &["-flto", "-Wall", "-Wextra", "-Werror"])
    }

    /// The library alone, not yet linked to anything.
    ///
    /// # Errors
    /// What the compiler says; a warning is an error.
    pub fn compile_library(
        &self,
        target: Target,
        dir: &Path,
        to_link: bool,
    ) -> anyhow::Result<PathBuf> {
        let flags = ["-flto", "-Wall", "-Wextra", "-Werror"];
        let flags = if to_link { &flags[..] } else { &flags[1..] };
        compile(target, &library().join("src/Fieldpost.cpp"), dir, flags)
    }

    /// The size of what was compiled.
    ///
    /// # Errors
    /// What avr-size says.
    pub fn size(&self, file: &Path) -> anyhow::Result<Size> {
        let text = run(Command::new("avr-size").arg(file))?;
        let figures = text.lines().nth(1).context("avr-size has said nothing")?;
        let mut figures = figures.split_whitespace().map_while(|word| word.parse::<u64>().ok());
        let mut next = || figures.next().context("avr-size has said something else");
        let (text, data, bss) = (next()?, next()?, next()?);
        Ok(Size { flash: text + data, ram: data + bss })
    }
}

fn sources(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "c" || ending == "cpp" || ending == "S")
        {
            sources.push(path);
        }
    }
    Ok(sources)
}

fn compiler(target: Target) -> Command {
    let mut gcc = Command::new("avr-gcc");
    gcc.args(FLAGS).args(target.flags());
    let variant = format!("variants/{}", target.variant());
    let libraries = ["libraries/SoftwareSerial/src", "libraries/EEPROM/src"];
    for folder in ["cores/arduino", &variant].into_iter().chain(libraries) {
        gcc.arg("-I").arg(Path::new(CORE).join(folder));
    }
    gcc.arg("-I").arg(library().join("src"));
    gcc
}

fn compile(target: Target, source: &Path, dir: &Path, flags: &[&str]) -> anyhow::Result<PathBuf> {
    let name = source.file_name().context("a source has a name")?.to_string_lossy().into_owned();
    let object = dir.join(format!("{name}.o"));
    let mut gcc = compiler(target);
    if name.ends_with(".cpp") {
        gcc.args(FLAGS_CPP);
    }
    run(gcc.args(flags).arg("-c").arg(source).arg("-o").arg(&object))?;
    Ok(object)
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("{program}: these tests need it; scripts/test installs it"))?;
    if !output.status.success() {
        bail!(
            "{program} ended with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
