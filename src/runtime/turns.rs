//! Turns: who goes on in one, and what leaves at its end.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_task::{Builder, Runnable};
use tokio::task::coop::unconstrained;
use tokio::time::{Sleep, sleep_until};

use super::timers::{Key, Timers};

/// How often tasks that make each other ready go on in one turn, before the sockets are looked at again.
const ROUNDS: usize = 8;

/// How far the alarm is set when nobody waits for a time.
const FAR: Duration = Duration::from_hours(1);

/// Holds what is to be sent, until the end of the turn.
pub trait Leaving {
    /// Sends what there is, as far as it can be sent without waiting.
    fn leave(self: Rc<Self>);
}

/// The turns of one thread. Clones are the same.
#[derive(Clone)]
pub struct Turns(Rc<Inner>);

struct Inner {
    ready: Arc<Ready>,
    /// Kept for its memory.
    running: RefCell<Vec<Runnable>>,
    leaving: RefCell<Vec<Rc<dyn Leaving>>>,
    /// Kept for its memory.
    left: RefCell<Vec<Rc<dyn Leaving>>>,
    timers: RefCell<Timers>,
    alarm: RefCell<Alarm>,
    has_runner: Cell<bool>,
}

/// One timer of the runtime for all that wait for a time. It is moved on while it has not rung, which costs the runtime
/// nothing; one that is set anew for a time before any other wakes the runtime by a system call.
#[derive(Default)]
struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    at: Option<Instant>,
}

/// Tasks that can go on.
#[derive(Default)]
struct Ready {
    tasks: Mutex<Vec<Runnable>>,
    /// How many they are: a turn without any takes no lock.
    count: AtomicUsize,
    /// Whether a turn has begun, at whose end they go on.
    begun: AtomicBool,
    /// Woken if none has.
    runner: Mutex<Option<Waker>>,
}

/// The mutexes hold lists that are whole whatever happens to their owner.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ready {
    fn push(&self, task: Runnable) {
        lock(&self.tasks).push(task);
        self.count.fetch_add(1, Ordering::SeqCst);
        if !self.begun.load(Ordering::SeqCst) {
            self.wake_runner();
        }
    }

    fn wake_runner(&self) {
        if let Some(runner) = &*lock(&self.runner) {
            runner.wake_by_ref();
        }
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Moves the tasks to `tasks`.
    fn take(&self, tasks: &mut Vec<Runnable>) {
        tasks.append(&mut lock(&self.tasks));
        self.count.fetch_sub(tasks.len(), Ordering::SeqCst);
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self(Rc::new(Inner {
            ready: Arc::default(),
            running: RefCell::default(),
            leaving: RefCell::default(),
            left: RefCell::default(),
            timers: RefCell::default(),
            alarm: RefCell::default(),
            has_runner: Cell::new(false),
        }))
    }
}

impl Turns {
    /// Begins a turn, which ends when the value is dropped. Whoever begins one may not wait in it.
    #[inline]
    #[must_use]
    pub fn begin(&self) -> Turn<'_> {
        self.0.ready.begun.store(true, Ordering::Relaxed);
        Turn(&self.0)
    }

    /// Runs a task on this thread, from the end of the turn on. A panic ends that task alone. The runtime must be tokio's
    /// local one.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.ensure_runner();
        let ready = Arc::clone(&self.0.ready);
        // The runtime would count what it waits for against the reader in whose task it runs, and stop it now and then.
        let (runnable, task) = Builder::new()
            .propagate_panic(true)
            .spawn_local(|()| unconstrained(future), move |task| ready.push(task));
        task.detach();
        runnable.schedule();
    }

    /// Has this leave at the end of the turn.
    pub fn at_end(&self, leaving: Rc<dyn Leaving>) {
        self.0.leaving.borrow_mut().push(leaving);
        if !self.0.ready.begun.load(Ordering::Relaxed) {
            self.ensure_runner();
            self.0.ready.wake_runner();
        }
    }

    /// Waits until this time, or little longer.
    #[must_use]
    pub fn until(&self, at: Instant) -> Until {
        Until {
            turns: self.clone(),
            at,
            key: None,
        }
    }

    /// Starts what runs tasks that become ready while no turn has begun, and rings the alarm.
    fn ensure_runner(&self) {
        if !self.0.has_runner.replace(true) {
            let inner = Rc::downgrade(&self.0);
            tokio::task::spawn_local(std::future::poll_fn(move |context| {
                // Whoever could make a task ready holds the rest.
                let Some(inner) = inner.upgrade() else {
                    return Poll::Ready(());
                };
                lock(&inner.ready.runner).get_or_insert_with(|| context.waker().clone());
                let turn = Self(inner);
                let turn = turn.begin();
                turn.0.ring(context);
                Poll::Pending
            }));
        }
    }
}

impl Inner {
    /// Wakes those whose time has come, and waits for the next.
    fn ring(&self, context: &mut Context<'_>) {
        let mut alarm = self.alarm.borrow_mut();
        loop {
            let now = super::now();
            let mut timers = self.timers.borrow_mut();
            timers.wake_due(now);
            alarm.set(timers.earliest().unwrap_or(now + FAR));
            drop(timers);
            if alarm.is_quiet(context) {
                return;
            }
        }
    }

    /// What is ready goes on, and what is to leave leaves, until there is nothing of both.
    #[inline(never)]
    fn end(&self) {
        let mut running = self.running.take();
        for _ in 0..ROUNDS {
            if self.is_idle() {
                break;
            }
            self.ready.take(&mut running);
            for task in running.drain(..) {
                task.run();
            }
            if self.ready.is_empty() {
                let mut leaving = self.leaving.replace(self.left.take());
                for one in leaving.drain(..) {
                    one.leave();
                }
                self.left.replace(leaving);
            }
        }
        self.running.replace(running);
    }

    fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.leaving.borrow().is_empty()
    }
}

impl Alarm {
    /// Has it ring at this time.
    fn set(&mut self, at: Instant) {
        if self.at == Some(at) {
            return;
        }
        self.at = Some(at);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at.into()),
            None => self.sleep = Some(Box::pin(sleep_until(at.into()))),
        }
    }

    /// Whether it has not rung yet. If so, it will wake the context's task.
    fn is_quiet(&mut self, context: &mut Context<'_>) -> bool {
        let sleep = self.sleep.as_mut();
        let quiet = sleep.is_none_or(|sleep| sleep.as_mut().poll(context).is_pending());
        if !quiet {
            self.at = None;
        }
        quiet
    }
}

/// A turn that has begun.
pub struct Turn<'a>(&'a Rc<Inner>);

impl Drop for Turn<'_> {
    #[inline]
    fn drop(&mut self) {
        let inner = self.0;
        if !inner.is_idle() {
            inner.end();
        }
        inner.ready.begun.swap(false, Ordering::SeqCst);
        // Made ready by another thread just now, or too much for one turn.
        if !inner.is_idle() {
            inner.ready.wake_runner();
        }
    }
}

/// Waits for a time; made by [`Turns::until`].
pub struct Until {
    turns: Turns,
    at: Instant,
    key: Option<Key>,
}

impl Future for Until {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let inner = &self.turns.0;
        if let Some(key) = self.key {
            let over = inner.timers.borrow_mut().is_over(key, context.waker());
            return if over { Poll::Ready(()) } else { Poll::Pending };
        }
        self.turns.ensure_runner();
        let mut timers = inner.timers.borrow_mut();
        let key = timers.insert(self.at, context.waker());
        let next = timers.earliest().unwrap_or(self.at);
        drop(timers);
        // Without one, the runner has yet to begin, and will set it.
        if let Ok(mut alarm) = inner.alarm.try_borrow_mut()
            && alarm.sleep.is_some()
        {
            alarm.set(next);
        }
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.turns.0.timers.borrow_mut().remove(key);
        }
    }
}
