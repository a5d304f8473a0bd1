//! Tasks that are reused: each runs one job after the other. A new task costs an allocation for the largest state of its
//! future, and a copy of the future into it. A reused task costs neither.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use super::turns::Turns;

/// Runs jobs of one kind, and keeps idle tasks for the next ones.
pub struct Tasks<J> {
    /// Idle tasks. The last element became idle last.
    idle: RefCell<Vec<IdleTask<J>>>,
    most: usize,
}

/// An idle task.
struct IdleTask<J> {
    job: Rc<Cell<Option<J>>>,
    waker: Waker,
}

impl<J: 'static> Tasks<J> {
    /// Keeps at most `most` idle tasks.
    #[must_use]
    pub fn keeping(most: usize) -> Rc<Self> {
        Rc::new(Self {
            idle: RefCell::default(),
            most,
        })
    }

    /// Runs `work(job)` in an idle task or a new one; it starts at the end of the turn. Each call must pass the same `work`,
    /// because an idle task runs the `work` it was created with. A panic ends the job and its task, and no other.
    pub fn run<F>(self: &Rc<Self>, turns: &Turns, job: J, work: impl Fn(J) -> F + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let kept = self.idle.borrow_mut().pop();
        if let Some(task) = kept {
            task.job.set(Some(job));
            task.waker.wake();
            return;
        }
        let tasks = Rc::downgrade(self);
        turns.spawn(async move {
            let job_slot = Rc::default();
            let mut next = Some(job);
            while let Some(job) = next {
                // The future is awaited in the expression that makes it, because a move would copy all of it.
                pin!(work(job)).await;
                next = next_job(&tasks, &job_slot).await;
            }
        });
    }
}

/// Lists the task as idle, and waits for its next job. None if enough tasks are idle already, or the [`Tasks`] are gone: then
/// the task ends.
async fn next_job<J>(tasks: &Weak<Tasks<J>>, job_slot: &Rc<Cell<Option<J>>>) -> Option<J> {
    let mut listed = false;
    poll_fn(|context| {
        if let Some(job) = job_slot.take() {
            return Poll::Ready(Some(job));
        }
        // A late wake of the previous job. The task is listed already.
        if listed {
            return Poll::Pending;
        }
        let Some(tasks) = tasks.upgrade() else {
            return Poll::Ready(None);
        };
        let mut idle = tasks.idle.borrow_mut();
        if idle.len() >= tasks.most {
            return Poll::Ready(None);
        }
        idle.push(IdleTask {
            job: Rc::clone(job_slot),
            waker: context.waker().clone(),
        });
        listed = true;
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::runtime::LocalOptions;
    use tokio::sync::Notify;

    use super::*;

    /// The number of tasks, and the jobs that they have done.
    #[derive(Default)]
    struct World {
        tasks: Cell<usize>,
        done: RefCell<Vec<u32>>,
        go_on: Notify,
    }

    struct InTask(Rc<World>);

    impl Drop for InTask {
        fn drop(&mut self) {
            self.0.tasks.set(self.0.tasks.get() - 1);
        }
    }

    /// Job 0 panics. Any other job waits for `go_on`, and is then added to `done`.
    fn work(
        world: &Rc<World>,
    ) -> impl Fn(u32) -> std::pin::Pin<Box<dyn Future<Output = ()>>> + use<> {
        world.tasks.set(world.tasks.get() + 1);
        let here = InTask(Rc::clone(world));
        move |job| {
            let world = Rc::clone(&here.0);
            Box::pin(async move {
                assert_ne!(job, 0, "a job that fails");
                world.go_on.notified().await;
                world.done.borrow_mut().push(job);
            })
        }
    }

    fn local(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(test);
    }

    async fn turns_pass() {
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_task_that_is_kept_takes_the_next_job() {
        local(async {
            let (world, turns, tasks) =
                (Rc::<World>::default(), Turns::default(), Tasks::keeping(1));
            for job in 1..=3 {
                tasks.run(&turns, job, work(&world));
                turns_pass().await;
                assert_eq!(world.tasks.get(), 1);
                world.go_on.notify_waiters();
                turns_pass().await;
            }
            assert_eq!(*world.done.borrow(), [1, 2, 3]);
        });
    }

    #[test]
    fn idle_tasks_are_limited_and_end_with_their_owner() {
        local(async {
            let (world, turns, tasks) =
                (Rc::<World>::default(), Turns::default(), Tasks::keeping(2));
            for job in 1..=5 {
                tasks.run(&turns, job, work(&world));
            }
            turns_pass().await;
            assert_eq!(world.tasks.get(), 5, "each waits with its own job");
            world.go_on.notify_waiters();
            turns_pass().await;
            assert_eq!(world.done.borrow().len(), 5);
            assert_eq!(world.tasks.get(), 2);
            drop(tasks);
            turns_pass().await;
            assert_eq!(world.tasks.get(), 0);
        });
    }

    #[test]
    fn a_task_whose_job_panics_is_not_kept() {
        local(async {
            let (world, turns, tasks) =
                (Rc::<World>::default(), Turns::default(), Tasks::keeping(2));
            tasks.run(&turns, 0, work(&world));
            turns_pass().await;
            assert_eq!(world.tasks.get(), 0);
            tasks.run(&turns, 1, work(&world));
            turns_pass().await;
            world.go_on.notify_waiters();
            turns_pass().await;
            assert_eq!(*world.done.borrow(), [1]);
        });
    }
}
