//! Where a soak plays: three contexts, AioContexts that stay on them and AioContexts that move.
#![forbid(unsafe_code)]

use crate::ledger::{Ledger, Spot, me};
use crate::watchdog;
use qcontext::{AioContext, QContext};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// Two contexts with threads of their own, and one that a plain GMainLoop iterates.
pub const CONTEXTS: usize = 3;
/// AioContexts that move.
const MOBILES: usize = 5;

/// An AioContext and where it is.
pub struct Place {
    pub name: String,
    pub aio: AioContext,
    pub spot: Arc<Spot>,
    /// The index of the context that has it, for those that move; held while one is moved.
    at: Option<Mutex<usize>>,
}

impl Place {
    /// Holds a mobile place still; `None` when it is pinned or another actor is moving it.
    pub fn take(&self) -> Option<MutexGuard<'_, usize>> {
        self.at.as_ref()?.try_lock().ok()
    }

    pub fn is_mobile(&self) -> bool {
        self.at.is_some()
    }
}

/// The whole of it.
pub struct Stage {
    pub ledger: Arc<Ledger>,
    pub contexts: Vec<QContext>,
    pub places: Vec<Arc<Place>>,
    over: AtomicBool,
    main_loop: glib::MainLoop,
    main_thread: Option<JoinHandle<()>>,
}

impl Stage {
    pub fn new() -> Stage {
        let ledger = Arc::new(Ledger::default());
        let gmain = glib::MainContext::new();
        let main_loop = glib::MainLoop::new(Some(&gmain), false);
        let contexts = vec![
            QContext::new("soak0", true).unwrap(),
            QContext::new("soak1", true).unwrap(),
            QContext::for_main_context(Some("soak2"), &gmain).unwrap(),
        ];
        let running = main_loop.clone();
        let main_thread = std::thread::Builder::new()
            .name("soak2".into())
            .spawn(move || running.run())
            .unwrap();
        let homes = contexts
            .iter()
            .map(|context| context.invoke_sync(me).unwrap());
        ledger.set_homes(homes.collect());
        let places = places(&ledger, &contexts);
        let stage = Stage {
            ledger,
            contexts,
            places,
            over: AtomicBool::new(false),
            main_loop,
            main_thread: Some(main_thread),
        };
        stage.tell_watchdog();
        stage
    }

    fn tell_watchdog(&self) {
        let contexts = self.contexts.clone();
        watchdog::show(move || {
            let ids = contexts
                .iter()
                .map(|context| (context.id(), context.thread_id()));
            format!("contexts and their threads: {:?}", ids.collect::<Vec<_>>())
        });
        let places: Vec<_> = self.places.iter().map(Arc::downgrade).collect();
        watchdog::show(move || {
            let places = places.iter().filter_map(std::sync::Weak::upgrade);
            let states = places.map(|place| format!("{} at {:?}", place.name, place.at));
            states.collect::<Vec<_>>().join("\n")
        });
        let ledger = Arc::clone(&self.ledger);
        watchdog::show(move || ledger.table());
    }

    /// Asks the actors to come to an end.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Takes everything down and closes the books.
    pub fn strike(mut self) -> Arc<Ledger> {
        self.places.clear();
        // Behind everything that the places have left to their homes.
        for context in &self.contexts {
            context.invoke_sync(|| ()).unwrap();
        }
        self.main_loop.quit();
        let ended = self.main_thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))), "the main loop's thread");
        for context in &self.contexts {
            context.stop().unwrap();
        }
        self.ledger.check_closed();
        self.ledger
    }
}

fn places(ledger: &Arc<Ledger>, contexts: &[QContext]) -> Vec<Arc<Place>> {
    let mut places = Vec::new();
    for (index, context) in contexts.iter().enumerate() {
        let own = context.aio().unwrap();
        places.push(pinned(format!("own{index}"), own, ledger, index));
        let aio = AioContext::new().unwrap();
        context.attach(&aio, Some("pinned")).unwrap();
        places.push(pinned(format!("pinned{index}"), aio, ledger, index));
    }
    for number in 0..MOBILES {
        let aio = AioContext::new().unwrap();
        let index = number % CONTEXTS;
        contexts[index].attach(&aio, None).unwrap();
        let spot = Spot::new(ledger, None);
        let (name, at) = (format!("mobile{number}"), Some(Mutex::new(index)));
        places.push(Arc::new(Place {
            name,
            aio,
            spot,
            at,
        }));
    }
    places
}

fn pinned(name: String, aio: AioContext, ledger: &Arc<Ledger>, index: usize) -> Arc<Place> {
    let (spot, at) = (Spot::new(ledger, Some(index)), None);
    Arc::new(Place {
        name,
        aio,
        spot,
        at,
    })
}
