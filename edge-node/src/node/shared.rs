//! What the two threads of a node share: the spool, and what the engine said about generating.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::budget::OnTheWay;
use super::figures::NodeFigures;
use super::spool::{Spool, SpoolError};

/// Why generating ended although nobody stopped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The collection's supply is used up.
    SupplyUsedUp,
    /// The model was retired.
    ModelRetired,
}

/// What both threads see; under one lock.
pub struct State {
    pub spool: Option<Spool>,
    /// Times of what is in the spool.
    pub on_the_way: OnTheWay,
    /// Most credits that are ever out; none while there is no connection.
    pub credits_max: Option<u32>,
    /// The realm is paused.
    pub paused: bool,
    /// The model may not mint yet.
    pub unapproved: bool,
    pub ending: Option<Ending>,
    pub stopping: bool,
    /// Nothing more will be generated.
    pub generation_over: bool,
}

impl State {
    /// How many assets may be generated now, whatever the schedule says.
    pub fn room(&self) -> usize {
        let Some(spool) = &self.spool else { return 0 };
        let open = spool.open_count();
        if self.unapproved || self.paused {
            // One asset is enough to find out when that is over.
            return spool.room().min(1usize.saturating_sub(open));
        }
        match self.credits_max {
            // One window under way and one ready; more would only get old.
            Some(credits) => spool
                .room()
                .min((2 * credits as usize).saturating_sub(open)),
            None => spool.room(),
        }
    }

    pub fn open_count(&self) -> usize {
        self.spool.as_ref().map_or(0, Spool::open_count)
    }
}

/// The state with its two ways of waking: the condition for the generating thread, the notice for the connection.
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pub notice: Notify,
    pub figures: Arc<NodeFigures>,
}

impl Shared {
    pub fn new(spool: Spool, figures: Arc<NodeFigures>) -> Shared {
        figures.set_spooled(spool.open_count());
        Shared {
            state: Mutex::new(State {
                spool: Some(spool),
                on_the_way: OnTheWay::default(),
                // Nothing is made before the first attempt to connect says what is wanted.
                credits_max: Some(0),
                paused: false,
                unapproved: false,
                ending: None,
                stopping: false,
                generation_over: false,
            }),
            changed: Condvar::new(),
            notice: Notify::new(),
            figures,
        }
    }

    pub fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes both threads.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.look();
        let result = change(&mut state);
        self.figures.set_spooled(state.open_count());
        self.figures.set_held(state.paused || state.unapproved);
        drop(state);
        self.changed.notify_all();
        self.notice.notify_one();
        result
    }

    /// Works on the spool; the work is left out once the spool is closed.
    pub fn spool<T: Default>(
        &self,
        work: impl FnOnce(&mut Spool) -> Result<T, SpoolError>,
    ) -> Result<T, SpoolError> {
        self.change(|state| state.spool.as_mut().map_or_else(|| Ok(T::default()), work))
    }

    /// Waits for a change, at most this long.
    pub fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub fn stop(&self) {
        self.change(|state| state.stopping = true);
    }

    pub fn close_spool(&self) -> Result<(), SpoolError> {
        let spool = self.look().spool.take();
        spool.map_or(Ok(()), Spool::close)
    }
}

/// Stops both threads when it goes.
pub struct StopOnDrop(pub Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}
