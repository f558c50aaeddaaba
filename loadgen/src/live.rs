//! What is shown while a run goes on, on standard error: a picture of a few lines on a terminal, plain lines on a pipe.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::recorder::Second;

/// At the end, what was not shown yet is waited for so long.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Seconds that wait for a slow terminal; beyond, they are not shown.
const WAITING_MAX: usize = 4;
/// Seconds in the picture's line of the past.
const PAST: usize = 60;
/// On a pipe the first seconds have a line each, then one in so many.
const LINES_AT_FIRST: u64 = 10;
const LINE_EVERY_S: u64 = 10;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Shows seconds, on a thread of its own: a terminal that is slow or stopped holds nothing up before the end, and the end
/// for two seconds at most.
pub struct Live {
    /// `None` at the end.
    sender: Option<SyncSender<Second>>,
    /// Closed when the thread has shown everything.
    shown: Receiver<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.sender.take());
        // Whether all was shown or the terminal is too slow: it is over.
        let _ = self.shown.recv_timeout(LAST_WORDS);
    }
}

impl Live {
    /// Begins, for a run of `whole_s` seconds under this title. `None` when there is no thread for it: then nothing is shown.
    pub fn start(title: String, whole_s: u64) -> Option<Live> {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let (at_end, shown) = sync_channel(1);
        let work = move || {
            match std::io::stderr().is_terminal() {
                true => draw(&receiver, &title, whole_s),
                false => write_lines(&receiver, whole_s),
            }
            drop(at_end);
        };
        let thread = std::thread::Builder::new().name("live".into()).spawn(work);
        let sender = Some(sender);
        thread.ok().map(|_| Live { sender, shown })
    }

    /// Shows a second, unless four wait already.
    pub fn show(&mut self, second: &Second) {
        if let Some(sender) = &self.sender {
            let _ = sender.try_send(second.clone());
        }
    }
}

fn write_lines(receiver: &Receiver<Second>, whole_s: u64) {
    while let Ok(second) = receiver.recv() {
        if second.at_s <= LINES_AT_FIRST || second.at_s.is_multiple_of(LINE_EVERY_S) {
            eprintln!("{}", line(&second, whole_s));
        }
    }
}

/// One second as a line.
pub fn line(second: &Second, whole_s: u64) -> String {
    format!(
        "{:>4}/{whole_s} s  sent {}  accepted {}  refused {}  skipped {}  waiting {}  p50 {:.0}  p99 {:.0}  max {:.0} us",
        second.at_s,
        second.sent,
        second.accepted,
        second.refused,
        second.skipped,
        second.waiting,
        second.p50_us,
        second.p99_us,
        second.max_us
    )
}

fn draw(receiver: &Receiver<Second>, title: &str, whole_s: u64) {
    let mut past: VecDeque<Second> = VecDeque::with_capacity(PAST);
    let mut drawn = 0;
    while let Ok(second) = receiver.recv() {
        if past.len() == PAST {
            past.pop_front();
        }
        past.push_back(second);
        let picture = picture(&past, title, whole_s);
        let mut err = std::io::stderr().lock();
        // Back to the first line of the picture before; each line clears what it does not fill.
        if drawn > 0 {
            let _ = write!(err, "\x1b[{drawn}A");
        }
        for line in &picture {
            let _ = writeln!(err, "\r{line}\x1b[K");
        }
        let _ = err.flush();
        drawn = picture.len();
    }
}

/// The last minute as a few lines.
pub fn picture(past: &VecDeque<Second>, title: &str, whole_s: u64) -> Vec<String> {
    let Some(now) = past.back() else {
        return Vec::new();
    };
    let row = |name: &str, of: &dyn Fn(&Second) -> f64, last: String| {
        let values: Vec<f64> = past.iter().map(of).collect();
        format!("  {name:<10} {} {last}", bars(&values))
    };
    vec![
        title.to_owned(),
        row(
            "accepted",
            &|one| one.accepted as f64,
            format!("{}/s", now.accepted),
        ),
        row("p50", &|one| one.p50_us, format!("{:.0} us", now.p50_us)),
        row("p99", &|one| one.p99_us, format!("{:.0} us", now.p99_us)),
        row("max", &|one| one.max_us, format!("{:.0} us", now.max_us)),
        format!(
            "  {}/{whole_s} s  sent {}  refused {}  skipped {}  waiting {}",
            now.at_s, now.sent, now.refused, now.skipped, now.waiting
        ),
    ]
}

fn bars(values: &[f64]) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    values
        .iter()
        .map(|value| match most > 0.0 {
            true => BARS[((value / most) * (BARS.len() - 1) as f64).round() as usize],
            false => BARS[0],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at_s: u64, accepted: u64) -> Second {
        Second {
            at_s,
            accepted,
            p99_us: accepted as f64,
            ..Second::default()
        }
    }

    #[test]
    fn a_picture_shows_the_past_by_height_and_the_present_by_number() {
        let past: VecDeque<Second> = [second(1, 0), second(2, 50), second(3, 100)].into();
        let picture = picture(&past, "a run", 10);
        assert_eq!(picture[0], "a run");
        assert!(picture[1].contains("▁▅█ 100/s"), "{}", picture[1]);
        assert!(picture.last().unwrap().contains("3/10 s"));
    }

    #[test]
    fn a_line_names_everything() {
        let text = line(&second(7, 5), 30);
        assert!(
            text.contains("7/30 s") && text.contains("accepted 5"),
            "{text}"
        );
    }

    #[test]
    fn seconds_that_nobody_takes_are_dropped_and_not_waited_for() {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let (_, shown) = sync_channel(1);
        let sender = Some(sender);
        let mut live = Live { sender, shown };
        for at_s in 0..100 {
            live.show(&second(at_s, 1));
        }
        assert_eq!(receiver.try_iter().count(), WAITING_MAX);
    }
}
