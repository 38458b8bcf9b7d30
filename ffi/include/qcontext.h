/* libqcontext: named event loops with their own threads for virtual devices, compatible with GLib.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 * Generated from ffi/src: change it there and run the tests with QCONTEXT_UPDATE_HEADER=1.
 *
 * A call that can fail takes a GError last and returns a pointer or a gboolean. When it fails it has taken nothing. A callback
 * comes with user data and a destroy notify. The notify runs exactly once, after the last call has returned, on the thread that
 * runs the context, or on the one that ends it when no thread runs it. The library holds no lock while it calls. Each function
 * says which threads may call it. Misuse, such as NULL for an object or a call from the wrong thread, is a critical and returns
 * a neutral value.
 */

#ifndef QCONTEXT_H
#define QCONTEXT_H

#include <glib.h>
#include <stdint.h>
#define QCONTEXT_VERSION_MAJOR 0
#define QCONTEXT_VERSION_MINOR 1
#define QCONTEXT_VERSION_PATCH 0
/* A version as one number, to compare with qcontext_version(). */
#define QCONTEXT_VERSION_ENCODE(major, minor, patch) \
  ((guint32)((major) * 1000000 + (minor) * 1000 + (patch)))
#define QCONTEXT_VERSION \
  QCONTEXT_VERSION_ENCODE(QCONTEXT_VERSION_MAJOR, QCONTEXT_VERSION_MINOR, QCONTEXT_VERSION_PATCH)

/* The domain of the library's errors. */
#define QCONTEXT_ERROR (qcontext_error_quark())


/**
 * For fds that are never read back, such as a device's kicks: each new readiness is reported once.
 */
#define QCONTEXT_FD_EDGE_TRIGGERED 1

/**
 * QContextError:
 * The codes of errors of the domain QCONTEXT_ERROR. Codes are never reused.
 */
typedef enum {
  /**
   * A value is not what the option or the call expects.
   */
  QCONTEXT_ERROR_INVALID_ARGUMENT = 100,
  /**
   * A mandatory option is absent.
   */
  QCONTEXT_ERROR_MISSING_ARGUMENT = 101,
  /**
   * A name is not a well-formed identifier.
   */
  QCONTEXT_ERROR_INVALID_ID = 102,
  /**
   * Only another thread may do this.
   */
  QCONTEXT_ERROR_WRONG_THREAD = 103,
  /**
   * The wait could never end.
   */
  QCONTEXT_ERROR_WOULD_DEADLOCK = 104,
  /**
   * The named thing does not exist.
   */
  QCONTEXT_ERROR_NOT_FOUND = 200,
  /**
   * The name or the fd is taken.
   */
  QCONTEXT_ERROR_EXISTS = 201,
  /**
   * The thing is in use and refuses the change.
   */
  QCONTEXT_ERROR_BUSY = 202,
  /**
   * The context has been stopped.
   */
  QCONTEXT_ERROR_CLOSED = 203,
  /**
   * A bound that protects the process was reached.
   */
  QCONTEXT_ERROR_LIMIT_EXCEEDED = 204,
  /**
   * There is no such command.
   */
  QCONTEXT_ERROR_COMMAND_NOT_FOUND = 205,
  /**
   * There is no such device or object path.
   */
  QCONTEXT_ERROR_DEVICE_NOT_FOUND = 206,
  /**
   * The operation was cancelled before it was done.
   */
  QCONTEXT_ERROR_CANCELLED = 207,
  /**
   * A system call failed; the message ends with the reason.
   */
  QCONTEXT_ERROR_OS = 300,
  /**
   * This build, kernel or configuration cannot do it.
   */
  QCONTEXT_ERROR_UNSUPPORTED = 301,
  /**
   * The peer broke the protocol.
   */
  QCONTEXT_ERROR_PROTOCOL = 302,
  /**
   * A bug of the library; the call was abandoned.
   */
  QCONTEXT_ERROR_PANICKED = 303,
} QContextError;

/**
 * QContextClock:
 * The time bases, all in nanoseconds.
 */
typedef enum {
  /**
   * Monotonic time since boot.
   */
  QCONTEXT_CLOCK_REALTIME = 0,
  /**
   * Monotonic time since the program has started, which stands still while the machine is stopped, and can be set.
   */
  QCONTEXT_CLOCK_VIRTUAL = 1,
  /**
   * The wall clock, which can jump.
   */
  QCONTEXT_CLOCK_HOST = 2,
  /**
   * Monotonic time, for code that drives the virtual clock.
   */
  QCONTEXT_CLOCK_VIRTUAL_RT = 3,
} QContextClock;

/**
 * QContext:
 * A named event loop, run by at most one thread, usually its own. Counted; the same context is always the same pointer.
 */
typedef struct QContext QContext;

/**
 * QContextAio:
 * A device's set of event handlers: fd handlers, bottom halves, timers. Counted; a QContext or a GSource drives it.
 */
typedef struct QContextAio QContextAio;

/**
 * QContextBh:
 * A deferred callback that any thread can schedule.
 */
typedef struct QContextBh QContextBh;

/**
 * QContextClaim:
 * Proof that a device uses a context. While it exists, the context cannot be deleted.
 */
typedef struct QContextClaim QContextClaim;

/**
 * QContextDeviceOpts:
 * The options of one -device argument. Taking an option removes it, so that qcontext_device_opts_finish() finds unknown ones.
 */
typedef struct QContextDeviceOpts QContextDeviceOpts;

/**
 * QContextJob:
 * A job that was submitted.
 */
typedef struct QContextJob QContextJob;

/**
 * QContextFunc:
 * A callback that receives its user data.
 */
typedef void (*QContextFunc)(gpointer user_data);

/**
 * QContextBoolFunc:
 * A question that receives its user data: whether a handler can read now, or whether polling found work.
 */
typedef gboolean (*QContextBoolFunc)(gpointer user_data);

/**
 * QContextFdOps:
 * What to do when an fd is ready. Start from an all-zero structure and set the fields you need.
 */
typedef struct {
  /**
   * Called while the fd is readable, hung up or in error.
   */
  QContextFunc read;
  /**
   * Called while the fd is writable or in error, or hung up while read is NULL.
   */
  QContextFunc write;
  /**
   * Asked when the fd is readable; FALSE pauses reading, and it is asked again at each iteration.
   */
  QContextBoolFunc can_read;
  /**
   * Looks for work without a system call before the loop sleeps. Ignored without io_poll_ready.
   */
  QContextBoolFunc io_poll;
  /**
   * Handles what io_poll found.
   */
  QContextFunc io_poll_ready;
  /**
   * Called before busy-polling starts: the peer's notifications may go off.
   */
  QContextFunc io_poll_begin;
  /**
   * Called before the loop may sleep: the peer's notifications go on again.
   */
  QContextFunc io_poll_end;
  /**
   * QCONTEXT_FD_EDGE_TRIGGERED or 0.
   */
  uint32_t flags;
  /**
   * 0.
   */
  size_t reserved[3];
} QContextFdOps;

/**
 * QContextNotifier:
 * A signal between threads or processes, carried by an eventfd. An all-zero one is not initialised.
 */
typedef struct {
  /**
   * The fd that a signal makes readable.
   */
  int rfd;
  /**
   * The fd that a signal writes to.
   */
  int wfd;
  /**
   * Whether the fds are valid.
   */
  gboolean initialized;
} QContextNotifier;

/**
 * QContextFillFunc:
 * Appends GPollFDs to @pollfds and may lower *@timeout_ms, where -1 means for ever.
 */
typedef void (*QContextFillFunc)(GArray *pollfds, int32_t *timeout_ms, gpointer user_data);

/**
 * QContextPolledFunc:
 * Receives the array with the revents of all entries, those of other hooks and of GLib among them.
 */
typedef void (*QContextPolledFunc)(GArray *pollfds, gpointer user_data);

/**
 * QContextJobFunc:
 * A job. It runs on a worker thread and returns its result.
 */
typedef int (*QContextJobFunc)(gpointer arg);

/**
 * QContextJobDoneFunc:
 * Receives a job's result, or -ECANCELED, on the thread that drives.
 */
typedef void (*QContextJobDoneFunc)(gpointer user_data, int result);

/**
 * QContextTimer:
 * A one-shot timer. The fields are private; an all-zero timer is one that is not armed.
 */
typedef struct {
  /**
   * Private.
   */
  gpointer node;
  /**
   * Private.
   */
  QContextAio *aio;
  /**
   * Private.
   */
  QContextFunc func;
  /**
   * Private.
   */
  gpointer user_data;
  /**
   * Private.
   */
  int64_t scale;
  /**
   * Private.
   */
  uint32_t clock;
  /**
   * Private.
   */
  uint32_t on_heap;
} QContextTimer;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * qcontext_aio_new:
 * Creates an AioContext that is not attached. It is driven by qcontext_aio_poll(), by the source of
 * qcontext_aio_get_g_source(), or by the context that it is attached to.
 * @error: OS
 *
 * Returns: (transfer full) (nullable): the AioContext.
 *
 * Any thread, any locks held.
 */
QContextAio *qcontext_aio_new(GError **error);

/**
 * qcontext_aio_ref:
 * Takes another reference.
 * @aio: an AioContext
 *
 * Returns: (transfer full): @aio.
 *
 * Any thread, any locks held.
 */
QContextAio *qcontext_aio_ref(QContextAio *aio);

/**
 * qcontext_aio_unref:
 * Gives a reference back. The context it is attached to, and each of its sources, hold references too. The last one removes
 * all handlers, with their destroy notifies. Bottom halves and timers that are left never run then. Their destroy notifies run,
 * and of each only the pointer is left, with which qcontext_bh_delete() or qcontext_timer_free() may still be called.
 * @aio: (nullable) (transfer full): an AioContext; NULL is ignored
 *
 * Any thread, any locks held.
 */
void qcontext_aio_unref(QContextAio *aio);

/**
 * qcontext_aio_attach:
 * Lets a context drive the AioContext; it takes a reference until it is detached.
 * @aio: an AioContext that is not driven
 * @context: a context
 * @name: (nullable): a name for qcontext_find_aio_by_name()
 * @error: EXISTS when the name is taken, BUSY when it is attached elsewhere, WRONG_THREAD while another thread drives it,
 * CLOSED after a stop, OS
 *
 * Returns: FALSE on failure; nothing has changed then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_aio_attach(QContextAio *aio,
                             QContext *context,
                             const char *name,
                             GError **error);

/**
 * qcontext_aio_detach:
 * Detaches the AioContext from the context. This happens at once on the context's thread or when no thread runs the context,
 * else soon. Pending events are kept.
 * @aio: an AioContext
 * @context: the context it is attached to
 *
 * Returns: FALSE when it is not attached there.
 *
 * Any thread, any locks held; never waits.
 */
gboolean qcontext_aio_detach(QContextAio *aio,
                             QContext *context);

/**
 * qcontext_aio_detach_sync:
 * As qcontext_aio_detach(), and waits until it is done.
 * @aio: an AioContext
 * @context: the context it is attached to
 * @error: NOT_FOUND when it is not attached there, WOULD_DEADLOCK, CLOSED after a stop, BUSY inside one of its callbacks and
 *   while it has requests in the context's io_uring
 *
 * Returns: TRUE when it is detached.
 *
 * Any thread; blocks unless it is the context's own, so no lock that callbacks of the context take may be held.
 */
gboolean qcontext_aio_detach_sync(QContextAio *aio,
                                  QContext *context,
                                  GError **error);

/**
 * qcontext_aio_move:
 * Moves the AioContext from one context to another without losing an event.
 * @aio: an AioContext
 * @from: the context it is attached to
 * @to: the context to attach it to
 * @name: (nullable): a name for qcontext_find_aio_by_name()
 * @error: as for qcontext_aio_detach_sync() and qcontext_aio_attach(); after a failure of the latter it is detached
 *
 * Returns: TRUE when it has moved.
 *
 * Any thread; blocks unless it is @from's, so no lock that callbacks of @from take may be held.
 */
gboolean qcontext_aio_move(QContextAio *aio,
                           QContext *from,
                           QContext *to,
                           const char *name,
                           GError **error);

/**
 * qcontext_find_aio_by_name:
 * @context: a context
 * @name: a name given to qcontext_aio_attach()
 *
 * Returns: (transfer full) (nullable): a new reference to the AioContext, NULL when there is none of that name.
 *
 * Any thread, any locks held.
 */
QContextAio *qcontext_find_aio_by_name(QContext *context,
                                       const char *name);

/**
 * qcontext_aio_get_g_source:
 * Creates a source that drives the AioContext from any GMainContext. It holds a reference to the AioContext. If sources of one
 * AioContext are attached to several GMainContexts, each event is served once, by whichever thread comes first.
 * @aio: an AioContext that is attached to no context
 * @error: OS
 *
 * Returns: (transfer full) (nullable): a new source, not attached.
 *
 * Any thread, any locks held.
 */
GSource *qcontext_aio_get_g_source(QContextAio *aio,
                                   GError **error);

/**
 * qcontext_aio_set_current:
 * Sets the calling thread's current AioContext, which qcontext_aio_get_current() returns.
 * @aio: (nullable): an AioContext, which the thread references; NULL for none
 *
 * Any thread, any locks held.
 */
void qcontext_aio_set_current(QContextAio *aio);

/**
 * qcontext_aio_get_current:
 * Returns: (transfer full) (nullable): a new reference to the calling thread's current AioContext: the one of
 * qcontext_aio_set_current(), else that of the context that runs the thread, else NULL.
 *
 * Any thread, any locks held.
 */
QContextAio *qcontext_aio_get_current(void);

/**
 * qcontext_aio_set_fd_handler:
 * Watches an fd, in place of the AioContext's earlier handler of it.
 * @aio: an AioContext
 * @fd: the fd
 * @ops: (nullable): the callbacks, which are copied; NULL, or neither read nor write, removes the handler as by
 * qcontext_aio_remove_fd(), and @destroy is not called
 * @user_data: data of all of them
 * @destroy: (nullable): runs when the handler was removed and its last call has returned, on the thread that drives
 * @error: INVALID_ARGUMENT for unknown flags, OS
 *
 * Returns: FALSE on failure; nothing has changed then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_aio_set_fd_handler(QContextAio *aio,
                                     int fd,
                                     const QContextFdOps *ops,
                                     gpointer user_data,
                                     GDestroyNotify destroy,
                                     GError **error);

/**
 * qcontext_aio_set_notifier_poll_cbs:
 * Changes what is called when busy-polling starts and stops, for the handler of a notifier: see QContextFdOps. Takes effect at
 * the next start or stop, and ends with the handler.
 * @aio: an AioContext
 * @notifier: a notifier that the AioContext watches
 * @begin: (nullable): called before busy-polling starts
 * @end: (nullable): called before the loop may sleep
 * @user_data: data of both
 * @destroy: (nullable): runs when they were replaced or the handler was removed, after their last call, on the thread that drives;
 * not used without @begin and @end, which removes both
 * @error: INVALID_ARGUMENT when the notifier is not initialised, NOT_FOUND when it has no handler
 *
 * Returns: FALSE on failure; nothing has changed then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_aio_set_notifier_poll_cbs(QContextAio *aio,
                                            const QContextNotifier *notifier,
                                            QContextFunc begin,
                                            QContextFunc end,
                                            gpointer user_data,
                                            GDestroyNotify destroy,
                                            GError **error);

/**
 * qcontext_aio_remove_fd:
 * As qcontext_remove_fd(), for an AioContext's handler.
 * @aio: an AioContext
 * @fd: the fd
 *
 * Returns: FALSE when the AioContext did not watch it.
 *
 * Any thread, any locks held; never waits.
 */
gboolean qcontext_aio_remove_fd(QContextAio *aio, int fd);

/**
 * qcontext_aio_remove_fd_sync:
 * As qcontext_remove_fd_sync(), for an AioContext's handler.
 * @aio: an AioContext
 * @fd: the fd
 * @error: NOT_FOUND, WOULD_DEADLOCK on the thread that drives it; nothing has changed then
 *
 * Returns: TRUE when the last callback has returned and the destroy notify has run.
 *
 * Any thread but the one that drives it; blocks, so no lock that callbacks take may be held.
 */
gboolean qcontext_aio_remove_fd_sync(QContextAio *aio, int fd, GError **error);

/**
 * qcontext_aio_poll:
 * Runs one iteration of the AioContext. If it is attached to a context, this serves all AioContexts that are attached there, but
 * neither calls the context's fd handlers and GSources nor returns because of them: they wait for the context's next iteration.
 * Waits once at most.
 * @aio: an AioContext
 * @may_block: whether to wait until something happens
 * @error: WRONG_THREAD while another thread drives it, OS
 *
 * Returns: whether it made progress: a bottom half that is not idle, a handler or a timer ran.
 *
 * One thread at a time.
 */
gboolean qcontext_aio_poll(QContextAio *aio,
                           gboolean may_block,
                           GError **error);

/**
 * qcontext_aio_bh_poll:
 * Runs the bottom halves of the AioContext that are scheduled, and nothing else. Never waits.
 * @aio: an AioContext
 * @error: WRONG_THREAD while another thread drives it
 *
 * Returns: whether one that is not idle ran.
 *
 * One thread at a time.
 */
gboolean qcontext_aio_bh_poll(QContextAio *aio, GError **error);

/**
 * qcontext_aio_compute_timeout:
 * Returns how long qcontext_aio_poll() would wait now. If the AioContext is attached, the whole context counts.
 * @aio: an AioContext
 *
 * Returns: nanoseconds: 0 when a bottom half is scheduled or a timer is due, 10000000 at most while an idle bottom half is
 * scheduled, -1 when only an event would end the wait. A call from another thread than the one that drives is a critical and 0.
 *
 * One thread at a time.
 */
int64_t qcontext_aio_compute_timeout(QContextAio *aio);

/**
 * qcontext_aio_notify:
 * Ends the current or next wait. That alone is not progress.
 * @aio: an AioContext
 *
 * Any thread, any locks held, also from a signal handler.
 */
void qcontext_aio_notify(QContextAio *aio);

/**
 * qcontext_aio_notify_accept:
 * Forgets notifications that have come, so that they do not end the next wait. What they announced is found all the same.
 * @aio: an AioContext
 * @error: WRONG_THREAD while another thread drives it
 *
 * Returns: FALSE on failure.
 *
 * One thread at a time.
 */
gboolean qcontext_aio_notify_accept(QContextAio *aio,
                                    GError **error);

/**
 * qcontext_aio_is_home:
 * @aio: an AioContext
 *
 * Returns: whether the calling thread drives it right now.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_aio_is_home(QContextAio *aio);

/**
 * qcontext_aio_set_poll_params:
 * Changes how long qcontext_aio_poll() of an unattached AioContext busy-polls before it sleeps; at first it does not.
 * @aio: an AioContext
 * @max_ns: the longest time; 0 never polls
 * @grow: the factor by which the time grows; 0 means 2
 * @shrink: the divisor by which it shrinks; 0 means back to nothing
 * @error: INVALID_ARGUMENT when one is negative
 *
 * Returns: FALSE on failure; nothing has changed then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_aio_set_poll_params(QContextAio *aio,
                                      int64_t max_ns,
                                      int64_t grow,
                                      int64_t shrink,
                                      GError **error);

/**
 * qcontext_bh_new:
 * Creates a bottom half.
 * @aio: the AioContext it runs on
 * @name: (nullable): for diagnostics; each different name is kept for ever, so use few
 * @func: the callback
 * @user_data: its data
 * @destroy: (nullable): runs when the bottom half was deleted and its last call has returned, on the thread that drives; or when
 * @aio ends
 *
 * Returns: (transfer full) (nullable): the bottom half, not scheduled; free with qcontext_bh_delete(). The end of @aio frees one
 * that was not deleted, and it must not be used any more. If a stop of a context ends @aio, it may be used and deleted until the
 * last reference to that context is given back.
 *
 * Any thread, any locks held.
 */
QContextBh *qcontext_bh_new(QContextAio *aio,
                            const char *name,
                            QContextFunc func,
                            gpointer user_data,
                            GDestroyNotify destroy);

/**
 * qcontext_bh_schedule:
 * Runs the callback once in the next iteration, however often it is scheduled before that.
 * @bh: a bottom half
 *
 * Any thread, any locks held, also from a signal handler.
 */
void qcontext_bh_schedule(QContextBh *bh);

/**
 * qcontext_bh_schedule_idle:
 * Runs the callback at the next iteration that has another cause, at the latest after 10 ms. It does not count as progress.
 * @bh: a bottom half
 *
 * Any thread, any locks held, also from a signal handler.
 */
void qcontext_bh_schedule_idle(QContextBh *bh);

/**
 * qcontext_bh_cancel:
 * Cancels a schedule if the callback has not begun.
 * @bh: a bottom half
 *
 * Any thread, any locks held, also from a signal handler.
 */
void qcontext_bh_cancel(QContextBh *bh);

/**
 * qcontext_bh_delete:
 * Deletes the bottom half, also from inside its callback. A call that has not begun does not happen; one that has begun on
 * another thread may still run. The destroy notify runs when the user data may be freed.
 * @bh: (nullable) (transfer full): a bottom half; NULL is ignored
 *
 * Any thread, any locks held; never waits.
 */
void qcontext_bh_delete(QContextBh *bh);

/**
 * qcontext_bh_delete_sync:
 * As qcontext_bh_delete(), and waits until a running call has returned. The destroy notify runs on the thread that drives, which
 * may be later.
 * @bh: (transfer full): a bottom half
 * @error: WOULD_DEADLOCK inside its own callback; nothing has changed then
 *
 * Returns: TRUE when it is deleted and no call runs or will run.
 *
 * Any thread; blocks, so no lock that the callback takes may be held.
 */
gboolean qcontext_bh_delete_sync(QContextBh *bh,
                                 GError **error);

/**
 * qcontext_bh_oneshot:
 * Runs a callback once in the next iteration.
 * @aio: the AioContext it runs on
 * @name: (nullable): as for qcontext_bh_new()
 * @func: the callback
 * @user_data: its data
 * @destroy: (nullable): runs after the callback, or without it when the AioContext ends first
 *
 * Returns: TRUE; FALSE for misuse, and nothing was taken then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_bh_oneshot(QContextAio *aio,
                             const char *name,
                             QContextFunc func,
                             gpointer user_data,
                             GDestroyNotify destroy);

/**
 * qcontext_clock_get_ns:
 * @clock: a QContextClock
 *
 * Returns: the time now.
 *
 * Any thread, any locks held, also from a signal handler.
 */
int64_t qcontext_clock_get_ns(uint32_t clock);

/**
 * qcontext_clock_deadline_ns:
 * @clock: a QContextClock
 *
 * Returns: nanoseconds until the first timer of any AioContext on this clock is due, 0 when one is due already, -1 without a timer.
 *
 * Any thread, any locks held.
 */
int64_t qcontext_clock_deadline_ns(uint32_t clock);

/**
 * qcontext_clock_enable:
 * Starts or stops the virtual clock. While it is stopped, its timers do not fire and do not limit a wait. The other clocks
 * always run.
 * @clock: QCONTEXT_CLOCK_VIRTUAL
 * @enabled: whether it runs
 *
 * Any thread, any locks held.
 */
void qcontext_clock_enable(uint32_t clock,
                           gboolean enabled);

/**
 * qcontext_clock_set_ns:
 * Sets the virtual clock, forwards or back. It runs on, or stands still as before. Timers keep their deadlines.
 * @clock: QCONTEXT_CLOCK_VIRTUAL
 * @ns: the time, from 0 to 2^59
 * @error: INVALID_ARGUMENT for another time
 *
 * Returns: FALSE on failure; nothing has changed then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_clock_set_ns(uint32_t clock,
                               int64_t ns,
                               GError **error);

/**
 * qcontext_clock_step_ns:
 * Moves the virtual clock forwards, from one deadline of its timers to the next, for tests of devices. At each deadline, timers of
 * qcontext-main and of the calling thread's context fire inside this call, unless another thread runs that context. So each of
 * their callbacks sees its own deadline as the time if the clock is stopped, and what it arms can fire in the same step. Timers of
 * other contexts fire on their threads, soon; timers of an unattached AioContext when it is polled. From the first step on, the
 * timers of a stopped clock fire when they are due, until it is stopped again. Between the steps it stands still.
 * @clock: QCONTEXT_CLOCK_VIRTUAL
 * @ns: how far
 * @error: INVALID_ARGUMENT for a step back, or one to a time after 2^59
 *
 * Returns: FALSE on failure; nothing has changed then.
 *
 * Any thread; calls back, so no lock that callbacks of these contexts take may be held.
 */
gboolean qcontext_clock_step_ns(uint32_t clock,
                                int64_t ns,
                                GError **error);

/**
 * qcontext_new:
 * Creates a context. A threaded one runs when this returns; an unthreaded one runs on the thread that iterates it.
 * @id: (nullable): a letter, then letters, digits, '-', '.', '_'; NULL for a generated name that cannot be looked up
 * @threaded: whether it gets a thread of its own
 * @error: EXISTS, INVALID_ID, OS
 *
 * Returns: (transfer full) (nullable): the context. Dropping the last reference stops it and frees its name.
 *
 * Any thread, any locks held.
 */
QContext *qcontext_new(const char *id,
                       gboolean threaded,
                       GError **error);

/**
 * qcontext_new_for_main_context:
 * Creates an unthreaded context around a GMainContext. It runs on the thread that iterates that.
 * @id: (nullable): as for qcontext_new()
 * @main_context: not the default GMainContext, which is qcontext-main's
 * @error: EXISTS, INVALID_ID, BUSY for the default GMainContext, OS
 *
 * Returns: (transfer full) (nullable): the context.
 *
 * Any thread, any locks held.
 */
QContext *qcontext_new_for_main_context(const char *id, GMainContext *main_context, GError **error);

/**
 * qcontext_ref:
 * Takes another reference.
 * @context: a context
 *
 * Returns: (transfer full): @context.
 *
 * Any thread, any locks held.
 */
QContext *qcontext_ref(QContext *context);

/**
 * qcontext_unref:
 * Gives a reference back. The last one stops the context without waiting for its thread, also from that thread.
 * @context: (nullable) (transfer full): a context; NULL is ignored
 *
 * Any thread, any locks held.
 */
void qcontext_unref(QContext *context);

/**
 * qcontext_find_by_name:
 * Looks a context up.
 * @id: the name; "qcontext-main" always exists
 * @error: NOT_FOUND
 *
 * Returns: (transfer full) (nullable): a new reference to the context.
 *
 * Any thread, any locks held.
 */
QContext *qcontext_find_by_name(const char *id, GError **error);

/**
 * qcontext_find_by_main_context:
 * Looks up the context that wraps a GMainContext. A context without a name is found too.
 * @main_context: (nullable): a GMainContext; NULL for the default one, which is qcontext-main's
 *
 * Returns: (transfer full) (nullable): a new reference to the context, NULL when there is none.
 *
 * Any thread, any locks held.
 */
QContext *qcontext_find_by_main_context(GMainContext *main_context);

/**
 * qcontext_get_main:
 * Returns: (transfer none): the context "qcontext-main", which drives the default GMainContext and always exists.
 *
 * Any thread, any locks held.
 */
QContext *qcontext_get_main(void);

/**
 * qcontext_get_current:
 * Returns: (transfer full) (nullable): a new reference to the context that runs the calling thread, NULL when none does.
 *
 * Any thread, any locks held.
 */
QContext *qcontext_get_current(void);

/**
 * qcontext_list_names:
 * Returns: (transfer full): the names of all contexts, "qcontext-main" first; free with g_strfreev().
 *
 * Any thread, any locks held.
 */
char **qcontext_list_names(void);

/**
 * qcontext_get_id:
 * @context: a context
 *
 * Returns: (transfer none): the name; borrowed, valid while the caller holds a reference.
 *
 * Any thread, any locks held.
 */
const char *qcontext_get_id(const QContext *context);

/**
 * qcontext_get_threaded:
 * @context: a context
 *
 * Returns: whether the context has a thread of its own.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_get_threaded(const QContext *context);

/**
 * qcontext_get_thread_id:
 * @context: a context
 *
 * Returns: the kernel's id of the thread that runs the context, -1 when none does; for qcontext-main the main thread's.
 *
 * Any thread, any locks held.
 */
int64_t qcontext_get_thread_id(const QContext *context);

/**
 * qcontext_get_context:
 * @context: a context
 *
 * Returns: (transfer none): the GMainContext it wraps, to which any GSource may be attached; borrowed, valid while the
 * caller holds a reference.
 *
 * Any thread, any locks held.
 */
GMainContext *qcontext_get_context(const QContext *context);

/**
 * qcontext_get_aio:
 * @context: a context
 * @error: CLOSED after a stop
 *
 * Returns: (transfer full) (nullable): the AioContext that every context has, for bottom halves and timers that need no
 * AioContext of their own. A stop ends it, unless the caller still has this reference: then it is detached.
 *
 * Any thread, any locks held.
 */
QContextAio *qcontext_get_aio(QContext *context,
                              GError **error);

/**
 * qcontext_get_iohandler_aio:
 * @context: a context
 * @error: CLOSED after a stop
 *
 * Returns: (transfer full) (nullable): the AioContext that holds the fds of qcontext_add_fd() and qcontext_set_fd_handler(). The
 * context always drives it. qcontext_aio_poll() of another AioContext of the context does not call its fd handlers. On qcontext-main
 * it is a GSource of its own, and such a poll does not run its bottom halves and timers either.
 *
 * Any thread, any locks held.
 */
QContextAio *qcontext_get_iohandler_aio(QContext *context,
                                        GError **error);

/**
 * qcontext_is_current:
 * @context: a context
 *
 * Returns: whether the calling thread runs the context now.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_is_current(const QContext *context);

/**
 * qcontext_stop:
 * Stops the context and waits until its thread has ended, or until the thread that iterates an unthreaded context, or has acquired
 * it, has left it.
 * Running callbacks finish. Pending work is dropped, with its destroy notifies. Attached AioContexts are detached; those without
 * another reference end. Stopping again does nothing.
 * @context: a context
 * @error: WOULD_DEADLOCK on the context's own thread, inside one of its callbacks, and when the context waits for the caller's;
 * BUSY for qcontext-main
 *
 * Returns: TRUE when the context has stopped; otherwise nothing has changed.
 *
 * Any thread but the context's own; blocks, so no lock that callbacks of the context take may be held.
 */
gboolean qcontext_stop(QContext *context,
                       GError **error);

/**
 * qcontext_notify:
 * Ends the current or next wait of the context.
 * @context: a context
 *
 * Any thread, any locks held, also from a signal handler.
 */
void qcontext_notify(QContext *context);

/**
 * qcontext_claim:
 * Records that a device uses the context, so that it cannot be deleted until the claim is released.
 * @context: a context
 * @device: the device's name, for the message that refuses the deletion
 * @error: CLOSED when the context has been deleted already
 *
 * Returns: (transfer full) (nullable): the claim.
 *
 * Any thread, any locks held.
 */
QContextClaim *qcontext_claim(QContext *context, const char *device, GError **error);

/**
 * qcontext_claim_release:
 * Releases a claim: the device no longer uses the context.
 * @claim: (nullable) (transfer full): a claim; NULL is ignored
 *
 * Any thread, any locks held.
 */
void qcontext_claim_release(QContextClaim *claim);

/**
 * qcontext_error_quark:
 * Returns: the domain of this library's errors; write it QCONTEXT_ERROR.
 *
 * Any thread, any locks held.
 */
GQuark qcontext_error_quark(void);

/**
 * qcontext_version:
 * Returns: the version of the library that is loaded, encoded as by QCONTEXT_VERSION_ENCODE().
 *
 * Any thread, any locks held, also from a signal handler.
 */
uint32_t qcontext_version(void);

/**
 * qcontext_add_fd:
 * Watches an fd that the context does not watch yet.
 * @context: a context
 * @fd: the fd
 * @can_read: (nullable): asked when @fd is readable; FALSE pauses reading, and it is asked again at each iteration
 * @read: (nullable): called while @fd is readable, hung up or in error
 * @write: (nullable): called while @fd is writable or in error, or hung up while @read is NULL
 * @user_data: data of all three
 * @destroy: (nullable): runs when the handler was removed and its last call has returned, on the context's thread
 * @error: EXISTS when the fd has a handler, INVALID_ARGUMENT without @read and @write, OS, CLOSED after a stop
 *
 * Returns: TRUE when the fd is watched; otherwise nothing was taken.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_add_fd(QContext *context,
                         int fd,
                         QContextBoolFunc can_read,
                         QContextFunc read,
                         QContextFunc write,
                         gpointer user_data,
                         GDestroyNotify destroy,
                         GError **error);

/**
 * qcontext_set_fd_handler:
 * Watches an fd, in place of the context's earlier handler of it. Without @read and @write that is removed, as by
 * qcontext_remove_fd(), and @destroy is not called.
 * @context: a context
 * @fd: the fd
 * @can_read: (nullable): as for qcontext_add_fd()
 * @read: (nullable): as for qcontext_add_fd()
 * @write: (nullable): as for qcontext_add_fd()
 * @user_data: data of all three
 * @destroy: (nullable): as for qcontext_add_fd()
 * @error: OS, CLOSED after a stop
 *
 * Returns: FALSE on failure; nothing has changed then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_set_fd_handler(QContext *context,
                                 int fd,
                                 QContextBoolFunc can_read,
                                 QContextFunc read,
                                 QContextFunc write,
                                 gpointer user_data,
                                 GDestroyNotify destroy,
                                 GError **error);

/**
 * qcontext_remove_fd:
 * Stops watching an fd. On return the fd is out of the poll set. It may be closed, and its number reused, at once. A callback
 * that has begun on the context's thread may still run. The destroy notify runs when the user data may be freed.
 * @context: a context
 * @fd: the fd
 *
 * Returns: FALSE when the context did not watch it.
 *
 * Any thread, any locks held; never waits.
 */
gboolean qcontext_remove_fd(QContext *context,
                            int fd);

/**
 * qcontext_remove_fd_sync:
 * As qcontext_remove_fd(), and waits until the last callback has returned and the destroy notify has run. When no thread runs
 * the context, the notify runs on the calling thread.
 * @context: a context
 * @fd: the fd
 * @error: NOT_FOUND when the context did not watch it, WOULD_DEADLOCK on the context's own thread; nothing has changed then
 *
 * Returns: TRUE when all of that is done.
 *
 * Any thread but the context's own; blocks, so no lock that callbacks of the context take may be held.
 */
gboolean qcontext_remove_fd_sync(QContext *context,
                                 int fd,
                                 GError **error);

/**
 * qcontext_remove_fd_async:
 * As qcontext_remove_fd(), and calls @done after the end.
 * @context: a context
 * @fd: the fd
 * @done: (nullable): runs once after the last callback has returned and the destroy notify has run
 * @user_data: data of @done
 * @done_context: (nullable): the context on which @done runs; NULL for the thread that ran the destroy notify
 *
 * Returns: FALSE when the context did not watch it; @done is not called then.
 *
 * Any thread, any locks held; never waits.
 */
gboolean qcontext_remove_fd_async(QContext *context,
                                  int fd,
                                  QContextFunc done,
                                  gpointer user_data,
                                  QContext *done_context);

/**
 * qcontext_invoke:
 * Runs a function once on the context. It is always queued; functions run in the order of the calls.
 * @context: a context
 * @func: the function
 * @user_data: its data
 * @destroy: (nullable): runs after @func, or without it when the context stops first
 * @error: CLOSED after a stop; nothing was taken then
 *
 * Returns: TRUE when it was queued.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_invoke(QContext *context,
                         QContextFunc func,
                         gpointer user_data,
                         GDestroyNotify destroy,
                         GError **error);

/**
 * qcontext_invoke_sync:
 * Runs a function on the context and waits for it; on the context's own thread it runs at once.
 * @context: a context
 * @func: the function
 * @user_data: its data
 * @error: WOULD_DEADLOCK when the context waits, directly or through others, for the caller's context; CLOSED after a stop
 *
 * Returns: TRUE when @func has run.
 *
 * Any thread; blocks, so no lock that callbacks of the context take may be held.
 */
gboolean qcontext_invoke_sync(QContext *context,
                              QContextFunc func,
                              gpointer user_data,
                              GError **error);

/**
 * qcontext_main_init:
 * Creates qcontext-main, so that a lack of fds is reported here.
 * @error: OS
 *
 * Returns: FALSE on failure.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_main_init(GError **error);

/**
 * qcontext_main_poll:
 * Runs one iteration of the default GMainContext, which includes qcontext-main.
 * @may_block: whether to wait until something happens
 * @error: WRONG_THREAD while another thread runs the default GMainContext
 *
 * Returns: whether something was dispatched or a notification came.
 *
 * Any one thread that can acquire the default GMainContext.
 */
gboolean qcontext_main_poll(gboolean may_block, GError **error);

/**
 * qcontext_main_iterate:
 * The old form of qcontext_main_poll(). Its argument has the opposite sense.
 * @nonblock: whether to return without waiting
 *
 * Returns: 1 when something was dispatched or a notification came, else 0. A call while another thread runs the default GMainContext is a critical and 0.
 *
 * Any one thread that can acquire the default GMainContext.
 */
__attribute__((deprecated("use qcontext_main_poll")))
int qcontext_main_iterate(gboolean nonblock);

/**
 * qcontext_main_set_lock_hooks:
 * Sets the hooks of the program's big lock. qcontext_main_poll() is called with the lock held and drops it while it waits.
 * @lock: (nullable): takes the lock
 * @unlock: (nullable): releases it
 * @user_data: data of both
 *
 * Any thread, any locks held; before the loop runs.
 */
void qcontext_main_set_lock_hooks(QContextFunc lock,
                                  QContextFunc unlock,
                                  gpointer user_data);

/**
 * qcontext_main_add_poll_hook:
 * Adds the fds of a library that only knows poll(2) to those that qcontext_main_poll() waits for.
 * @fill: (nullable): appends fds before each wait
 * @polled: (nullable): called with the result after each wait
 * @user_data: data of both
 * @destroy: (nullable): runs when the hook was removed and its last call has returned
 *
 * Returns: an id for qcontext_main_remove_poll_hook().
 *
 * Any thread, any locks held; takes effect at the next iteration.
 */
uint32_t qcontext_main_add_poll_hook(QContextFillFunc fill,
                                     QContextPolledFunc polled,
                                     gpointer user_data,
                                     GDestroyNotify destroy);

/**
 * qcontext_main_remove_poll_hook:
 * Removes a poll hook.
 * @id: the id of qcontext_main_add_poll_hook()
 * @error: NOT_FOUND
 *
 * Returns: FALSE on failure.
 *
 * Any thread, any locks held; a call that has begun may still run.
 */
gboolean qcontext_main_remove_poll_hook(uint32_t id, GError **error);

/**
 * qcontext_notifier_init:
 * Initialises a notifier with a new eventfd.
 * @notifier: the storage, with any content
 * @active: whether it is signalled already
 * @error: OS
 *
 * Returns: FALSE on failure; the notifier is not initialised then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_notifier_init(QContextNotifier *notifier, gboolean active, GError **error);

/**
 * qcontext_notifier_init_fd:
 * Initialises a notifier with an eventfd that came from elsewhere, which it takes over.
 * @notifier: the storage, with any content
 * @fd: an eventfd, which should be non-blocking
 *
 * Any thread, any locks held.
 */
void qcontext_notifier_init_fd(QContextNotifier *notifier, int fd);

/**
 * qcontext_notifier_cleanup:
 * Closes the notifier's fds. Remove its handlers first.
 * @notifier: a notifier; one that is not initialised stays so
 *
 * Any thread, any locks held; no other call uses @notifier at the same time.
 */
void qcontext_notifier_cleanup(QContextNotifier *notifier);

/**
 * qcontext_notifier_set:
 * Signals. Several signals before a test count as one.
 * @notifier: a notifier
 *
 * Returns: FALSE when the notifier is not initialised.
 *
 * Any thread, any locks held, also from a signal handler.
 */
gboolean qcontext_notifier_set(const QContextNotifier *notifier);

/**
 * qcontext_notifier_test_and_clear:
 * Consumes the signal.
 * @notifier: a notifier
 *
 * Returns: whether there was one.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_notifier_test_and_clear(const QContextNotifier *notifier);

/**
 * qcontext_notifier_get_fd:
 * @notifier: a notifier
 *
 * Returns: the fd that becomes readable by a signal, -1 when the notifier is not initialised.
 *
 * Any thread, any locks held.
 */
int qcontext_notifier_get_fd(const QContextNotifier *notifier);

/**
 * qcontext_notifier_get_wfd:
 * @notifier: a notifier
 *
 * Returns: the fd that a signal writes to, -1 when the notifier is not initialised.
 *
 * Any thread, any locks held.
 */
int qcontext_notifier_get_wfd(const QContextNotifier *notifier);

/**
 * qcontext_object_add:
 * Creates a context as the command line does: "qcontext,id=ctx1,threaded=yes", or a JSON object. It lasts until
 * qcontext_object_del(), even when no reference is left.
 * @optarg: the argument of -object
 * @error: an unknown type or option, a bad or taken id
 *
 * Returns: (transfer full) (nullable): a reference to the new context, even if another thread has deleted it by then.
 *
 * Any thread, any locks held.
 */
QContext *qcontext_object_add(const char *optarg,
                              GError **error);

/**
 * qcontext_object_del:
 * Stops a context, waits for its thread and forgets its name. References stay valid for qcontext_unref(). When several threads
 * delete one context, one of them succeeds and the others get NOT_FOUND.
 * @id: the context's name
 * @error: NOT_FOUND; BUSY for qcontext-main and while a device uses the context; WOULD_DEADLOCK on its own thread
 *
 * Returns: FALSE on failure; nothing has changed then.
 *
 * Any thread but the context's own; blocks, so no lock that callbacks of the context take may be held.
 */
gboolean qcontext_object_del(const char *id,
                             GError **error);

/**
 * qcontext_qom_list:
 * @path: a path in the object tree, such as "/objects" or "/objects/ctx1"
 * @error: DEVICE_NOT_FOUND
 *
 * Returns: (transfer full) (nullable): the names of its properties and children; free with g_strfreev().
 *
 * Any thread, any locks held.
 */
char **qcontext_qom_list(const char *path,
                         GError **error);

/**
 * qcontext_qom_get:
 * @path_and_property: a path, a dot and a property, such as "/objects/ctx1.thread_id"
 * @error: DEVICE_NOT_FOUND, NOT_FOUND
 *
 * Returns: (transfer full) (nullable): the value as text; free with g_free().
 *
 * Any thread, any locks held.
 */
char *qcontext_qom_get(const char *path_and_property, GError **error);

/**
 * qcontext_get_property:
 * @context: a context
 * @name: a property, such as "thread_id"
 * @error: NOT_FOUND
 *
 * Returns: (transfer full) (nullable): the value; not floating.
 *
 * Any thread, any locks held.
 */
GVariant *qcontext_get_property(QContext *context, const char *name, GError **error);

/**
 * qcontext_set_property:
 * @context: a context
 * @name: a property, such as "poll-max-ns"
 * @value: a boolean, a number, a string or an array of these, such as "[0, 1]" for "cpu-affinity"; consumed if floating
 * @error: NOT_FOUND, INVALID_ARGUMENT for one that cannot be written or a value that does not fit
 *
 * Returns: FALSE on failure; nothing has changed then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_set_property(QContext *context,
                               const char *name,
                               GVariant *value,
                               GError **error);

/**
 * qcontext_device_opts_parse:
 * Parses the argument of -device: "virtio-blk,drive=d0,context=ctx1", or a JSON object. If the first item has no '=', it is the driver.
 * @optarg: the argument
 * @error: INVALID_ARGUMENT for malformed JSON, INVALID_ID
 *
 * Returns: (transfer full) (nullable): the options; free with qcontext_device_opts_free().
 *
 * Any thread, any locks held.
 */
QContextDeviceOpts *qcontext_device_opts_parse(const char *optarg,
                                               GError **error);

/**
 * qcontext_device_opts_free:
 * @opts: (nullable) (transfer full): options; NULL is ignored
 *
 * Any thread, any locks held.
 */
void qcontext_device_opts_free(QContextDeviceOpts *opts);

/**
 * qcontext_device_opts_take:
 * Takes an option as text.
 * @opts: options
 * @name: the option
 *
 * Returns: (transfer full) (nullable): its value, NULL when it is not given; free with g_free().
 *
 * One thread at a time.
 */
char *qcontext_device_opts_take(QContextDeviceOpts *opts, const char *name);

/**
 * qcontext_device_opts_take_bool:
 * Takes a boolean: on, yes, true, y, off, no, false, n.
 * @opts: options
 * @name: the option
 * @value: (inout): where to store the value; unchanged when the option is not given
 * @error: INVALID_ARGUMENT for anything else
 *
 * Returns: FALSE on failure.
 *
 * One thread at a time.
 */
gboolean qcontext_device_opts_take_bool(QContextDeviceOpts *opts,
                                        const char *name,
                                        gboolean *value,
                                        GError **error);

/**
 * qcontext_device_opts_take_context:
 * Takes the name of a context and looks it up.
 * @opts: options
 * @name: the option, usually "context"
 * @error: NOT_FOUND
 *
 * Returns: (transfer full) (nullable): a reference to the context; qcontext-main when the option is not given.
 *
 * One thread at a time.
 */
QContext *qcontext_device_opts_take_context(QContextDeviceOpts *opts,
                                            const char *name,
                                            GError **error);

/**
 * qcontext_device_opts_finish:
 * Checks that no option is left, so that a misspelt one is an error.
 * @opts: options
 * @error: INVALID_ARGUMENT, which names the first one left
 *
 * Returns: FALSE on failure.
 *
 * One thread at a time.
 */
gboolean qcontext_device_opts_finish(QContextDeviceOpts *opts, GError **error);

/**
 * qcontext_poll_ns:
 * As g_poll(), with a timeout in nanoseconds.
 * @fds: (nullable): what to wait for
 * @count: how many
 * @timeout_ns: how long to wait at most; negative for ever
 *
 * Returns: how many fds have events; 0 after the timeout; -1 with errno on failure, also when a signal came.
 *
 * Any thread; blocks.
 */
int qcontext_poll_ns(GPollFD *fds,
                     uint32_t count,
                     int64_t timeout_ns);

/**
 * qcontext_pool_submit:
 * Runs a job on a worker thread of the AioContext's pool. Jobs start in the order of submission.
 * @aio: the AioContext on which the completion runs
 * @func: the job
 * @arg: its argument, not used after it has returned or was cancelled
 * @done: (nullable): called with the result; never before this call has returned to the loop
 * @user_data: data of @done
 * @destroy: (nullable): runs after @done, or without it when the AioContext ends first
 * @error: OS when no worker can be started; nothing was taken then
 *
 * Returns: (transfer full) (nullable): the job; free with qcontext_job_free(), at any time.
 *
 * Any thread, any locks held.
 */
QContextJob *qcontext_pool_submit(QContextAio *aio,
                                  QContextJobFunc func,
                                  gpointer arg,
                                  QContextJobDoneFunc done,
                                  gpointer user_data,
                                  GDestroyNotify destroy,
                                  GError **error);

/**
 * qcontext_job_cancel:
 * Completes a job with -ECANCELED if it has not begun. A running job completes normally.
 * @job: a job
 *
 * Returns: whether it had not begun.
 *
 * Any thread, any locks held; never waits.
 */
gboolean qcontext_job_cancel(QContextJob *job);

/**
 * qcontext_job_cancel_sync:
 * As qcontext_job_cancel(), and iterates the AioContext, as qcontext_aio_poll() does, until the completion has run.
 * @job: a job
 * @error: WRONG_THREAD while another thread drives the AioContext
 *
 * Returns: TRUE when the completion has run.
 *
 * The thread that drives, or any when none does.
 */
gboolean qcontext_job_cancel_sync(QContextJob *job,
                                  GError **error);

/**
 * qcontext_job_is_complete:
 * @job: a job
 *
 * Returns: whether the completion has run.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_job_is_complete(QContextJob *job);

/**
 * qcontext_job_free:
 * Frees the handle of a job. The job itself continues.
 * @job: (nullable) (transfer full): a job; NULL is ignored
 *
 * Any thread, any locks held.
 */
void qcontext_job_free(QContextJob *job);

/**
 * qcontext_aio_set_pool_limits:
 * Changes the limits of the AioContext's worker pool. The defaults are 0 and 64.
 * @aio: an AioContext
 * @min: the number of workers that stay when there are no jobs
 * @max: the largest number of workers
 * @error: INVALID_ARGUMENT when @max is 0 or below @min
 *
 * Returns: FALSE on failure; nothing has changed then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_aio_set_pool_limits(QContextAio *aio, uint32_t min, uint32_t max, GError **error);

/**
 * qcontext_iterate:
 * Runs one iteration of an unthreaded context.
 * @context: a context
 * @may_block: whether to wait until something happens
 * @error: WRONG_THREAD when another thread runs the context, CLOSED after a stop
 *
 * Returns: whether something was dispatched.
 *
 * One thread at a time.
 */
gboolean qcontext_iterate(QContext *context, gboolean may_block, GError **error);

/**
 * qcontext_pending:
 * As g_main_context_pending(): whether qcontext_iterate() without waiting would dispatch something. Runs no callback but @can_read
 * of fd handlers, and prepare and check of GSources.
 * @context: a context
 * @error: WRONG_THREAD when another thread runs the context, CLOSED after a stop
 *
 * Returns: TRUE when something is ready; FALSE otherwise, and on failure.
 *
 * One thread at a time.
 */
gboolean qcontext_pending(QContext *context,
                          GError **error);

/**
 * qcontext_acquire:
 * Makes the calling thread the owner of the context, which may run it, until qcontext_release() is called as often.
 * @context: a context
 *
 * Returns: FALSE while another thread owns the context.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_acquire(QContext *context);

/**
 * qcontext_release:
 * Undoes one qcontext_acquire().
 * @context: a context that the calling thread has acquired
 *
 * The thread that acquired it.
 */
void qcontext_release(QContext *context);

/**
 * qcontext_prepare:
 * First step of an iteration in the caller's own poll loop. The other three steps follow in every case.
 * @context: a context that the calling thread has acquired
 * @priority: (out) (nullable): the priority to give to the next two steps
 *
 * Returns: whether something is ready already.
 *
 * The thread that acquired the context.
 */
gboolean qcontext_prepare(QContext *context,
                          int32_t *priority);

/**
 * qcontext_append_query:
 * Second step: appends the fds of the context to an array, so that several loops share one poll.
 * @context: a context that the calling thread has acquired
 * @max_priority: the priority of qcontext_prepare()
 * @timeout_ms: (out): how long the poll may block, -1 for ever
 * @pollfds: an array of GPollFD
 *
 * Returns: how many entries were appended.
 *
 * The thread that acquired the context.
 */
int32_t qcontext_append_query(QContext *context,
                              int32_t max_priority,
                              int32_t *timeout_ms,
                              GArray *pollfds);

/**
 * qcontext_check:
 * Third step: passes the result of the poll to the context.
 * @context: a context that the calling thread has acquired
 * @max_priority: the priority of qcontext_prepare()
 * @pollfds: (nullable): the entries that qcontext_append_query() appended, with their revents
 * @count: their number
 *
 * Returns: whether something is ready to be dispatched.
 *
 * The thread that acquired the context.
 */
gboolean qcontext_check(QContext *context, int32_t max_priority, GPollFD *pollfds, int32_t count);

/**
 * qcontext_dispatch:
 * Fourth step: dispatches what is ready.
 * @context: a context that the calling thread has acquired
 *
 * The thread that acquired the context.
 */
void qcontext_dispatch(QContext *context);

/**
 * qcontext_attach_source:
 * Lets the context drive any GSource, and takes a reference to it. It is destroyed when the context stops.
 * @context: a context
 * @source: a source that is not attached
 * @name: (nullable): a name for qcontext_find_source_by_name()
 * @error: EXISTS when the name is taken, BUSY when the source is attached or destroyed already, CLOSED after a stop
 *
 * Returns: the source's id within the GMainContext, 0 on failure.
 *
 * Any thread, any locks held.
 */
uint32_t qcontext_attach_source(QContext *context,
                                GSource *source,
                                const char *name,
                                GError **error);

/**
 * qcontext_find_source_by_name:
 * @context: a context
 * @name: a name given to qcontext_attach_source()
 *
 * Returns: (transfer full) (nullable): a new reference to the source, NULL when there is none of that name.
 *
 * Any thread, any locks held.
 */
GSource *qcontext_find_source_by_name(QContext *context,
                                      const char *name);

/**
 * qcontext_destroy_source:
 * Destroys a source and forgets its name. As with g_source_destroy(), the notify of the source's callback runs here, unless a call
 * is running.
 * @context: a context
 * @source: a source attached with qcontext_attach_source()
 *
 * Returns: FALSE when it was not attached here; nothing has changed then.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_destroy_source(QContext *context,
                                 GSource *source);

/**
 * qcontext_timer_init:
 * Initialises a timer in the caller's storage. The storage may be freed once the timer is deleted and not armed again.
 * @timer: the storage, with any content
 * @aio: the AioContext it fires on, which outlives it
 * @clock: a QContextClock
 * @scale: nanoseconds per unit of qcontext_timer_mod()
 * @func: the callback
 * @user_data: its data
 *
 * Any thread, any locks held; no other call uses @timer at the same time.
 */
void qcontext_timer_init(QContextTimer *timer,
                         QContextAio *aio,
                         uint32_t clock,
                         int64_t scale,
                         QContextFunc func,
                         gpointer user_data);

/**
 * qcontext_timer_new:
 * Creates a timer on the heap.
 * @aio: the AioContext it fires on
 * @clock: a QContextClock
 * @scale: nanoseconds per unit of qcontext_timer_mod()
 * @func: the callback
 * @user_data: its data
 * @destroy: (nullable): runs when the timer was freed and its last call has returned, on the thread that drives; or when @aio ends
 *
 * Returns: (transfer full) (nullable): the timer, not armed; free with qcontext_timer_free(), also after the end of @aio.
 *
 * Any thread, any locks held.
 */
QContextTimer *qcontext_timer_new(QContextAio *aio,
                                  uint32_t clock,
                                  int64_t scale,
                                  QContextFunc func,
                                  gpointer user_data,
                                  GDestroyNotify destroy);

/**
 * qcontext_timer_free:
 * Deletes and frees a timer on the heap, also from inside its callback.
 * @timer: (nullable) (transfer full): a timer of qcontext_timer_new(); NULL is ignored
 *
 * Any thread, any locks held; never waits. No other call uses @timer at the same time.
 */
void qcontext_timer_free(QContextTimer *timer);

/**
 * qcontext_timer_mod:
 * Fires at a time, in place of any earlier arming. A time in the past, also a negative one, is due at once.
 * @timer: a timer
 * @expire_time: the time, in the timer's scale
 *
 * Any thread, any locks held.
 */
void qcontext_timer_mod(QContextTimer *timer,
                        int64_t expire_time);

/**
 * qcontext_timer_mod_ns:
 * As qcontext_timer_mod(), in nanoseconds.
 * @timer: a timer
 * @expire_time: the time in nanoseconds
 *
 * Any thread, any locks held.
 */
void qcontext_timer_mod_ns(QContextTimer *timer, int64_t expire_time);

/**
 * qcontext_timer_anticipate:
 * As qcontext_timer_mod(), unless the timer is armed for an earlier time.
 * @timer: a timer
 * @expire_time: the time, in the timer's scale
 *
 * Any thread, any locks held.
 */
void qcontext_timer_anticipate(QContextTimer *timer, int64_t expire_time);

/**
 * qcontext_timer_anticipate_ns:
 * As qcontext_timer_anticipate(), in nanoseconds.
 * @timer: a timer
 * @expire_time: the time in nanoseconds
 *
 * Any thread, any locks held.
 */
void qcontext_timer_anticipate_ns(QContextTimer *timer, int64_t expire_time);

/**
 * qcontext_timer_del:
 * Does not fire any more until it is armed again. A call that has begun on another thread may still run.
 * @timer: a timer; one that is all-zero or not armed stays so
 *
 * Any thread, any locks held; never waits.
 */
void qcontext_timer_del(QContextTimer *timer);

/**
 * qcontext_timer_del_sync:
 * As qcontext_timer_del(), and waits until a running call has returned. A timer on the heap never fires again, even if it
 * is armed; the only use left for it is qcontext_timer_free().
 * @timer: a timer
 * @error: WOULD_DEADLOCK inside its own callback; nothing has changed then
 *
 * Returns: TRUE when no call runs or will run.
 *
 * Any thread; blocks, so no lock that the callback takes may be held.
 */
gboolean qcontext_timer_del_sync(QContextTimer *timer,
                                 GError **error);

/**
 * qcontext_timer_pending:
 * @timer: a timer
 *
 * Returns: whether it is armed and its callback has not begun.
 *
 * Any thread, any locks held.
 */
gboolean qcontext_timer_pending(const QContextTimer *timer);

/**
 * qcontext_timer_expire_time_ns:
 * @timer: a timer
 *
 * Returns: the time in nanoseconds for which it is armed, -1 when it is not.
 *
 * Any thread, any locks held.
 */
int64_t qcontext_timer_expire_time_ns(const QContextTimer *timer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* QCONTEXT_H */
