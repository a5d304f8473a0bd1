//! The terminal while `top` runs: its screen and keys, and its restoration at the end, even after a panic.

use std::io::{self, Stdout};
use std::panic;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui_core::terminal::Terminal;
use ratatui_crossterm::CrosstermBackend;
use ratatui_crossterm::crossterm::cursor::{Hide, Show};
use ratatui_crossterm::crossterm::event::{
    self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
};
use ratatui_crossterm::crossterm::execute;
use ratatui_crossterm::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::model::Fleet;
use super::poll;
use super::view::{KeyCommand, Palette, Screen};
use crate::cli::admin::AdminAddress;

/// Readings that are shown together.
const READINGS_AT_ONCE: usize = 1_024;

/// How often the screen is drawn again without a new reading: for the seconds until the next try.
const TICK: Duration = Duration::from_secs(1);

/// Whether our screen is shown. A static, because the terminal and the panic hook belong to the whole process.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// A terminal that shows our screen in place of its own. Dropping it gives back what was there.
struct OwnScreen(Terminal<CrosstermBackend<Stdout>>);

impl OwnScreen {
    fn open() -> anyhow::Result<Self> {
        // What panics prints, and that must be readable.
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        enable_raw_mode().context("no terminal whose keys can be read; --once needs none")?;
        IS_OPEN.store(true, Ordering::Release);
        let opened = execute!(io::stdout(), EnterAlternateScreen, Hide);
        match opened.and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout()))) {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                give_back();
                Err(error).context("the terminal")
            }
        }
    }
}

impl Drop for OwnScreen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Leaves the terminal as it was, once: a second time would move the cursor. A terminal that is gone needs none of it.
fn give_back() {
    if !IS_OPEN.swap(false, Ordering::AcqRel) {
        return;
    }
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// Input from the terminal.
enum Typed {
    KeyCommand(KeyCommand),
    /// It has another size, or was used by others meanwhile.
    Redraw,
    Failed(io::Error),
}

fn command(key: KeyEvent) -> Option<KeyCommand> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(KeyCommand::Quit);
    }
    Some(match key.code {
        KeyCode::Char('q') | KeyCode::Esc => KeyCommand::Quit,
        KeyCode::Char('p' | ' ') => KeyCommand::Pause,
        KeyCode::Char('?' | 'h') => KeyCommand::Help,
        KeyCode::Tab => KeyCommand::NextTable,
        KeyCode::BackTab => KeyCommand::PreviousTable,
        KeyCode::Down | KeyCode::Char('j') => KeyCommand::LineDown,
        KeyCode::Up | KeyCode::Char('k') => KeyCommand::LineUp,
        KeyCode::PageDown => KeyCommand::PageDown,
        KeyCode::PageUp => KeyCommand::PageUp,
        KeyCode::Home | KeyCode::Char('g') => KeyCommand::Start,
        KeyCode::End | KeyCode::Char('G') => KeyCommand::End,
        _ => return None,
    })
}

/// Reads keys on a thread of its own, which ends with the process: reading them cannot be called off.
fn read_keys(typed: &mpsc::Sender<Typed>) {
    loop {
        let one = match event::read() {
            Ok(Event::Key(key)) => match command(key) {
                Some(command) => Typed::KeyCommand(command),
                None => continue,
            },
            Ok(Event::Resize(..)) => Typed::Redraw,
            Ok(_) => continue,
            Err(error) => Typed::Failed(error),
        };
        let last = matches!(one, Typed::Failed(_));
        if typed.blocking_send(one).is_err() || last {
            return;
        }
    }
}

/// Shows the instances until a key or a signal ends it.
pub(super) async fn run(
    instances: Vec<AdminAddress>,
    pause: Duration,
    palette: Palette,
) -> anyhow::Result<ExitCode> {
    let mut fleet = Fleet::new(instances.iter().map(ToString::to_string));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (sender, mut readings) = mpsc::channel(READINGS_AT_ONCE);
    let mut watches = JoinSet::new();
    for (place, address) in instances.into_iter().enumerate() {
        watches.spawn(poll::watch(place, address, pause, sender.clone()));
    }
    let mut own = OwnScreen::open()?;
    let (sender, mut typed) = mpsc::channel(16);
    thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || read_keys(&sender))
        .context("a thread for keys")?;
    let mut screen = Screen::new(palette);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut taken = Vec::new();
    loop {
        screen.show(fleet.tables(Instant::now()));
        own.0
            .draw(|frame| screen.draw(frame.area(), frame.buffer_mut()))
            .context("the terminal")?;
        tokio::select! {
            _ = readings.recv_many(&mut taken, READINGS_AT_ONCE) => {
                for reading in taken.drain(..) {
                    fleet.take(reading);
                }
            }
            one = typed.recv() => match one {
                Some(Typed::KeyCommand(KeyCommand::Quit)) | None => return Ok(ExitCode::SUCCESS),
                Some(Typed::KeyCommand(command)) => screen.obey(command),
                Some(Typed::Redraw) => {}
                Some(Typed::Failed(error)) => return Err(error).context("the terminal"),
            },
            // They end only by a panic, and the panic hook has restored the screen already.
            Some(ended) = watches.join_next() => ended?,
            _ = tick.tick() => {}
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            _ = hang_up.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    /// The name of the test below, and what tells it that it runs in a terminal of its own.
    const NAME: &str = "cli::top::live::tests::a_panic_gives_the_terminal_back_before_it_is_told";
    const INSIDE: &str = "TEST_RUNS_IN_A_TERMINAL";

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        if std::env::var_os(INSIDE).is_some() {
            let _own = OwnScreen::open().expect("a terminal");
            panic!("of the test");
        }
        let program = std::env::current_exe().expect("our own");
        let program = program.display();
        // `script` of util-linux makes the pseudo-terminal.
        let modes = "echo MODES $(stty -g)";
        let inside = format!("{modes}; {program} --exact {NAME} --nocapture; {modes}");
        let output = process::Command::new("script")
            .args(["-qec", &inside, "/dev/null"])
            .env(INSIDE, "1")
            .stdin(process::Stdio::piped())
            .output()
            .expect("script is installed: apt-get install bsdutils");
        let text = String::from_utf8_lossy(&output.stdout);
        let place = |what: &str| {
            text.find(what)
                .unwrap_or_else(|| panic!("no {what:?} in {text:?}"))
        };
        assert!(place("\u{1b}[?1049h") < place("\u{1b}[?1049l"), "{text:?}");
        assert!(place("\u{1b}[?1049l") < place("of the test"), "{text:?}");
        let modes = text.lines().filter(|line| line.starts_with("MODES "));
        let modes: Vec<&str> = modes.collect();
        assert_eq!(modes.len(), 2, "{text:?}");
        assert_eq!(modes[0], modes[1]);
        let left = text.matches("\u{1b}[?1049l").count();
        assert_eq!(
            left, 1,
            "a second one would move the cursor over the message: {text:?}"
        );
    }

    #[test]
    fn keys_ask_for_what_the_help_says() {
        let plain = |code| KeyEvent::new(code, KeyModifiers::NONE);
        let control = |code| KeyEvent::new(code, KeyModifiers::CONTROL);
        for (key, want) in [
            (plain(KeyCode::Char('q')), Some(KeyCommand::Quit)),
            (plain(KeyCode::Esc), Some(KeyCommand::Quit)),
            (control(KeyCode::Char('c')), Some(KeyCommand::Quit)),
            (control(KeyCode::Char('q')), None),
            (plain(KeyCode::Char('c')), None),
            (plain(KeyCode::Char('p')), Some(KeyCommand::Pause)),
            (plain(KeyCode::Tab), Some(KeyCommand::NextTable)),
            (plain(KeyCode::BackTab), Some(KeyCommand::PreviousTable)),
            (plain(KeyCode::Char('j')), Some(KeyCommand::LineDown)),
            (plain(KeyCode::Up), Some(KeyCommand::LineUp)),
            (plain(KeyCode::PageDown), Some(KeyCommand::PageDown)),
            (plain(KeyCode::Char('?')), Some(KeyCommand::Help)),
        ] {
            assert_eq!(command(key), want, "{key:?}");
        }
    }
}
