//! The steps of a command: named, timed, one after another or several at the same time.

use crate::shell::{Error, Result};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A step that was made.
struct Time {
    name: String,
    wall: Duration,
    /// Of the programs it ran, if no other step ran at the same time.
    cpu: Option<Duration>,
    done: bool,
}

/// What was made, in the order it ended; steps within others are left out.
static TIMES: Mutex<Vec<Time>> = Mutex::new(Vec::new());
/// Whether steps run at the same time.
static TOGETHER: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread is within a step.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` under a name: a spinner on a terminal, a line with the time it took elsewhere.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (started, cpu) = (Instant::now(), children_cpu());
    let together = TOGETHER.load(Ordering::Relaxed);
    let spinner =
        if together { indicatif::ProgressBar::hidden() } else { indicatif::ProgressBar::new_spinner() };
    spinner.set_message(name.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    let within = WITHIN.replace(true);
    let result = work();
    WITHIN.set(within);
    spinner.finish_and_clear();
    let (wall, done) = (started.elapsed(), result.is_ok());
    eprintln!("{} {name} ({:.1} s)", if done { "done  " } else { "FAILED" }, wall.as_secs_f64());
    if !within && let Ok(mut times) = TIMES.lock() {
        let cpu = (!together).then(|| children_cpu().saturating_sub(cpu));
        times.push(Time { name: name.to_owned(), wall, cpu, done });
    }
    result
}

/// Work for [`together`].
pub type Job<'a> = Box<dyn FnOnce() -> Result + Send + 'a>;

/// Runs jobs, each of which makes steps, as many at a time as there are CPUs, in the order given. After one has failed none is begun.
pub fn together(jobs: Vec<Job<'_>>) -> Result {
    let jobs = Mutex::new(VecDeque::from(jobs));
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let poisoned = || Error::Other("a step panicked".into());
    let next = || -> Option<Job<'_>> {
        if failed.lock().ok()?.is_some() { None } else { jobs.lock().ok()?.pop_front() }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    TOGETHER.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(job) = next() {
                    if let (Err(error), Ok(mut failed)) = (job(), failed.lock()) {
                        failed.get_or_insert(error);
                    }
                }
            });
        }
    });
    TOGETHER.store(false, Ordering::Relaxed);
    match failed.into_inner().map_err(|_| poisoned())? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Runs `work` and prints what its steps took, whether it succeeds or not.
pub fn timed(work: impl FnOnce() -> Result) -> Result {
    let (started, cpu) = (Instant::now(), children_cpu());
    let result = work();
    let (wall, cpu) = (started.elapsed(), children_cpu().saturating_sub(cpu));
    if let Ok(times) = TIMES.lock() {
        eprint!("{}", table(&times, wall, cpu));
    }
    result
}

fn table(times: &[Time], wall: Duration, cpu: Duration) -> String {
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    let row = |name: &str, wall: &str, cpu: &str| format!("{name:<56} {wall:>10} {cpu:>10}\n");
    let mut text = row("\nstep", "time", "CPU");
    for time in times {
        let name = if time.done { time.name.clone() } else { format!("{} (FAILED)", time.name) };
        text += &row(&name, &seconds(time.wall), &time.cpu.map_or_else(|| "together".into(), seconds));
    }
    text += &row("all", &seconds(wall), &seconds(cpu));
    text
}

/// What the programs this one has run and waited for have used of the CPUs: fields 16 and 17 of proc(5)'s stat, in hundredths.
fn children_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, in parentheses, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn jobs_run_at_the_same_time_and_a_failure_begins_no_more() {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let (barrier, begun) = (Barrier::new(count), AtomicUsize::new(0));
        let all_at_once = || -> Job<'_> {
            Box::new(|| {
                begun.fetch_add(1, Ordering::SeqCst);
                // Nobody passes unless all are here.
                barrier.wait();
                Err(Error::Other("no".into()))
            })
        };
        let more: Job<'_> = Box::new(|| {
            begun.fetch_add(100, Ordering::SeqCst);
            Ok(())
        });
        let jobs = (0..count).map(|_| all_at_once()).chain([more]).collect();
        assert_eq!(together(jobs).map_err(|error| error.to_string()), Err("no".into()));
        assert_eq!(begun.load(Ordering::SeqCst), count);
    }

    #[test]
    fn the_table_names_what_failed_and_whose_cpu_time_is_not_known() {
        let time =
            |name: &str, cpu, done| Time { name: name.into(), wall: Duration::from_secs(2), cpu, done };
        let times = [time("a", Some(Duration::from_secs(1)), true), time("b", None, false)];
        let table = table(&times, Duration::from_secs(3), Duration::from_secs(4));
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[2], ["a", "2.0", "s", "1.0", "s"]);
        assert_eq!(words[3], ["b", "(FAILED)", "2.0", "s", "together"]);
        assert_eq!(words[4], ["all", "3.0", "s", "4.0", "s"]);
    }

    #[test]
    fn what_a_program_used_is_counted() {
        let before = children_cpu();
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", busy]).status().is_ok_and(|s| s.success()));
        assert!(children_cpu() > before);
    }
}
