//! Turns: which tasks are polled at the end of a turn, and what is sent then.

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

use super::timers::{TimerKey, Timers};

/// Rounds of polling in one turn. Tasks may wake each other without end; after this many rounds the runtime polls the sockets
/// again.
const ROUNDS: usize = 8;

/// How far ahead the alarm is set while there is no timer.
const FAR: Duration = Duration::from_hours(1);

/// A queue of messages that are sent at the end of the turn.
pub trait OutgoingQueue {
    /// Sends as much of the queue as can be sent without waiting.
    fn flush(self: Rc<Self>);
}

/// The turns of one thread. A clone refers to the same turns.
#[derive(Clone)]
pub struct Turns(Rc<TurnsState>);

struct TurnsState {
    ready: Arc<ReadyTasks>,
    /// Tasks of the current round. Empty between turns, and kept for its allocation.
    running: RefCell<Vec<Runnable>>,
    /// Queues to be sent at the end of the turn.
    queues: RefCell<Vec<Rc<dyn OutgoingQueue>>>,
    /// An empty list to swap with `queues`, kept for its allocation.
    spare_queues: RefCell<Vec<Rc<dyn OutgoingQueue>>>,
    timers: RefCell<Timers>,
    alarm: RefCell<Alarm>,
    has_runner: Cell<bool>,
}

/// One timer of tokio's runtime, which serves all [`Timers`]. It is reset before it fires, because that costs the runtime
/// nothing. A new timer of tokio's would wake the runtime by a system call if it were the earliest.
#[derive(Default)]
struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    at: Option<Instant>,
}

/// Tasks that are ready to be polled.
#[derive(Default)]
struct ReadyTasks {
    tasks: Mutex<Vec<Runnable>>,
    /// Length of `tasks`, so that a turn without ready tasks takes no lock.
    count: AtomicUsize,
    /// Whether a turn has begun. The tasks are polled at its end.
    begun: AtomicBool,
    /// The runner's waker, woken when a task becomes ready while no turn has begun.
    runner: Mutex<Option<Waker>>,
}

/// Locks a mutex, poisoned or not: a panic cannot leave the lists in these mutexes in a broken state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ReadyTasks {
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
        Self(Rc::new(TurnsState {
            ready: Arc::default(),
            running: RefCell::default(),
            queues: RefCell::default(),
            spare_queues: RefCell::default(),
            timers: RefCell::default(),
            alarm: RefCell::default(),
            has_runner: Cell::new(false),
        }))
    }
}

impl Turns {
    /// Begins a turn. It ends when the returned value is dropped. The caller must not await anything before that.
    #[inline]
    #[must_use]
    pub fn begin(&self) -> Turn<'_> {
        self.0.ready.begun.store(true, Ordering::Relaxed);
        Turn(&self.0)
    }

    /// Starts a task on this thread. It is first polled at the end of the turn. A panic ends that task alone. The runtime must
    /// be tokio's `LocalRuntime`.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.ensure_runner();
        let ready = Arc::clone(&self.0.ready);
        // The task is polled inside the task of a socket's reader. Unless it is unconstrained, what it polls would use up that
        // reader's cooperative budget, and tokio would return `Pending` for resources that are ready.
        let (runnable, task) = Builder::new()
            .propagate_panic(true)
            .spawn_local(|()| unconstrained(future), move |task| ready.push(task));
        task.detach();
        runnable.schedule();
    }

    /// Calls [`OutgoingQueue::flush`] at the end of the turn.
    pub fn flush_at_end(&self, queue: Rc<dyn OutgoingQueue>) {
        self.0.queues.borrow_mut().push(queue);
        if !self.0.ready.begun.load(Ordering::Relaxed) {
            self.ensure_runner();
            self.0.ready.wake_runner();
        }
    }

    /// Waits until `at`, or little longer.
    #[must_use]
    pub fn until(&self, at: Instant) -> Until {
        Until {
            turns: self.clone(),
            at,
            key: None,
        }
    }

    /// Starts the runner, unless it runs: a task of tokio's that polls the tasks that become ready while no turn has begun, and
    /// that waits for the alarm.
    fn ensure_runner(&self) {
        if !self.0.has_runner.replace(true) {
            let inner = Rc::downgrade(&self.0);
            tokio::task::spawn_local(std::future::poll_fn(move |context| {
                // All clones of `Turns` are gone, and with them all that could add a task.
                let Some(inner) = inner.upgrade() else {
                    return Poll::Ready(());
                };
                lock(&inner.ready.runner).get_or_insert_with(|| context.waker().clone());
                let turn = Self(inner);
                let turn = turn.begin();
                turn.0.handle_due_timers(context);
                Poll::Pending
            }));
        }
    }
}

impl TurnsState {
    /// Wakes all timers that are due, and sets the alarm for the next one.
    fn handle_due_timers(&self, context: &mut Context<'_>) {
        let mut alarm = self.alarm.borrow_mut();
        loop {
            let now = super::now();
            let mut timers = self.timers.borrow_mut();
            timers.wake_due(now);
            alarm.set(timers.earliest().unwrap_or(now + FAR));
            drop(timers);
            if alarm.is_pending(context) {
                return;
            }
        }
    }

    /// Polls ready tasks, and sends queues when no task is ready, until there is nothing to do or [`ROUNDS`] are over.
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
                let mut queues = self.queues.replace(self.spare_queues.take());
                for queue in queues.drain(..) {
                    queue.flush();
                }
                self.spare_queues.replace(queues);
            }
        }
        self.running.replace(running);
    }

    fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.queues.borrow().is_empty()
    }
}

impl Alarm {
    /// Resets the alarm to `at`.
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

    /// Whether the alarm has not fired yet. If so, it will wake the context's task.
    fn is_pending(&mut self, context: &mut Context<'_>) -> bool {
        let sleep = self.sleep.as_mut();
        let pending = sleep.is_none_or(|sleep| sleep.as_mut().poll(context).is_pending());
        if !pending {
            self.at = None;
        }
        pending
    }
}

/// A turn that has begun.
pub struct Turn<'a>(&'a Rc<TurnsState>);

impl Drop for Turn<'_> {
    #[inline]
    fn drop(&mut self) {
        let inner = self.0;
        if !inner.is_idle() {
            inner.end();
        }
        inner.ready.begun.swap(false, Ordering::SeqCst);
        // Another thread has woken a task meanwhile, or the turn had too many rounds.
        if !inner.is_idle() {
            inner.ready.wake_runner();
        }
    }
}

/// Waits for a time. Made by [`Turns::until`].
pub struct Until {
    turns: Turns,
    at: Instant,
    key: Option<TimerKey>,
}

impl Future for Until {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let inner = &self.turns.0;
        if let Some(key) = self.key {
            let over = inner.timers.borrow_mut().was_woken(key, context.waker());
            return if over { Poll::Ready(()) } else { Poll::Pending };
        }
        self.turns.ensure_runner();
        let mut timers = inner.timers.borrow_mut();
        let key = timers.insert(self.at, context.waker());
        let next = timers.earliest().unwrap_or(self.at);
        drop(timers);
        // If the alarm is borrowed, the runner is in `handle_due_timers`. Without a `sleep`, the runner has not been polled
        // yet. In both cases the runner sets the alarm.
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
