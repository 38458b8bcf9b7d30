/* The semantics that code written for QEMU's event loop relies on. */
#include <qcontext-compat.h>
#include <unistd.h>

static AioContext *ctx;

typedef struct {
    QEMUBH *bh;
    int n, max;
} BHTest;

static void bh_test(void *opaque)
{
    BHTest *data = opaque;

    if (++data->n < data->max) {
        qemu_bh_schedule(data->bh);
    }
}

static void bh_delete(void *opaque)
{
    BHTest *data = opaque;

    data->n++;
    qemu_bh_delete(data->bh);
    data->bh = NULL;
}

static void test_bh_runs_once_per_poll(void)
{
    BHTest data = { .max = 10 };

    data.bh = aio_bh_new(ctx, bh_test, &data);
    qemu_bh_schedule(data.bh);
    g_assert_cmpint(data.n, ==, 0);
    for (int i = 1; i <= 10; i++) {
        g_assert_true(aio_poll(ctx, i > 1));
        g_assert_cmpint(data.n, ==, i);
    }
    g_assert_false(aio_poll(ctx, false));
    qemu_bh_schedule(data.bh);
    qemu_bh_cancel(data.bh);
    g_assert_false(aio_poll(ctx, false));
    aio_bh_call(data.bh);
    g_assert_cmpint(data.n, ==, 11);
    qemu_bh_delete(data.bh);
}

static void test_bh_idle_is_no_progress(void)
{
    BHTest data = { .max = 1 };

    data.bh = aio_bh_new(ctx, bh_test, &data);
    qemu_bh_schedule_idle(data.bh);
    g_assert_false(aio_poll(ctx, true));
    g_assert_cmpint(data.n, ==, 1);
    qemu_bh_delete(data.bh);
}

static void test_many_deletes(void)
{
    BHTest data[4] = { { 0 } };

    for (int i = 0; i < 4; i++) {
        data[i].bh = aio_bh_new(ctx, bh_delete, &data[i]);
        qemu_bh_schedule(data[i].bh);
    }
    g_assert_true(aio_poll(ctx, false));
    for (int i = 0; i < 4; i++) {
        g_assert_cmpint(data[i].n, ==, 1);
        g_assert_null(data[i].bh);
    }
    g_assert_false(aio_poll(ctx, false));
}

typedef struct {
    EventNotifier e;
    int n, active;
    bool auto_set;
} NotifierTest;

static void notifier_ready(EventNotifier *e)
{
    NotifierTest *data = (NotifierTest *)e;

    g_assert_cmpint(event_notifier_test_and_clear(e), ==, 1);
    data->n++;
    if (data->active > 0) {
        data->active--;
    }
    if (data->auto_set && data->active) {
        event_notifier_set(e);
    }
}

static void test_notifier(void)
{
    NotifierTest data = { .active = 10, .auto_set = true };

    g_assert_cmpint(event_notifier_init(&data.e, false), ==, 0);
    aio_set_event_notifier(ctx, &data.e, notifier_ready, NULL, NULL);
    g_assert_false(aio_poll(ctx, false));
    event_notifier_set(&data.e);
    g_assert_true(aio_poll(ctx, false));
    g_assert_cmpint(data.n, ==, 1);
    g_assert_cmpint(data.active, ==, 9);
    while (data.active) {
        g_assert_true(aio_poll(ctx, true));
    }
    g_assert_cmpint(data.n, ==, 10);
    g_assert_false(aio_poll(ctx, false));
    aio_set_event_notifier(ctx, &data.e, NULL, NULL, NULL);
    event_notifier_set(&data.e);
    g_assert_false(aio_poll(ctx, false));
    g_assert_cmpint(data.n, ==, 10);
    event_notifier_cleanup(&data.e);
    event_notifier_cleanup(&data.e);
    g_assert_cmpint(event_notifier_set(&data.e), ==, -1);
}

typedef struct {
    QEMUTimer timer;
    int n, max;
    int64_t ns;
    QEMUClockType clock;
} TimerTest;

static void timer_fired(void *opaque)
{
    TimerTest *data = opaque;

    g_assert_false(timer_pending(&data->timer));
    if (++data->n < data->max) {
        timer_mod(&data->timer, qemu_clock_get_ns(data->clock) + data->ns);
    }
}

static void test_timer(void)
{
    TimerTest data = { .ns = SCALE_MS * 200LL, .max = 2, .clock = QEMU_CLOCK_REALTIME };

    timer_del(&data.timer);
    g_assert_false(timer_pending(&data.timer));
    aio_timer_init(ctx, &data.timer, data.clock, SCALE_NS, timer_fired, &data);
    timer_mod(&data.timer, qemu_clock_get_ns(data.clock) + 3600 * NANOSECONDS_PER_SECOND);
    g_assert_false(aio_poll(ctx, false));
    int64_t expires = qemu_clock_get_ns(data.clock) + data.ns;
    timer_mod(&data.timer, expires);
    g_assert_cmpuint(timer_expire_time_ns(&data.timer), ==, (uint64_t)expires);
    g_assert_false(timer_expired(&data.timer, expires - 1));
    g_assert_true(timer_expired(&data.timer, expires));
    /* One call sleeps the whole time and makes progress. */
    g_assert_true(aio_poll(ctx, true));
    g_assert_cmpint(data.n, ==, 1);
    g_assert_cmpint(qemu_clock_get_ns(data.clock), >=, expires);
    g_assert_true(aio_poll(ctx, true));
    g_assert_cmpint(data.n, ==, 2);
    timer_mod(&data.timer, -1);
    timer_mod_anticipate(&data.timer, expires);
    timer_del(&data.timer);
    g_assert_false(aio_poll(ctx, false));
    g_assert_cmpint(data.n, ==, 2);
    timer_deinit(&data.timer);
}

static void count(void *opaque)
{
    ++*(int *)opaque;
}

static void test_main_loop_timers(void)
{
    int n = 0;
    QEMUTimer embedded;
    QEMUTimer *heap = timer_new_ms(QEMU_CLOCK_VIRTUAL, count, &n);

    timer_init_us(&embedded, QEMU_CLOCK_HOST, count, &n);
    timer_mod(heap, qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL) + 1);
    timer_mod(&embedded, qemu_clock_get_us(QEMU_CLOCK_HOST) + 100);
    while (n < 2) {
        main_loop_wait(false);
    }
    timer_free(heap);
    timer_free(NULL);
    timer_del(&embedded);
}

static void test_as_g_source(void)
{
    BHTest data = { .max = 1 };
    AioContext *own = aio_context_new(NULL);
    GMainContext *gmain = g_main_context_new();
    GSource *source = aio_get_g_source(own);

    g_source_attach(source, gmain);
    g_source_unref(source);
    while (g_main_context_iteration(gmain, false)) {
    }
    data.bh = aio_bh_new(own, bh_test, &data);
    qemu_bh_schedule(data.bh);
    g_assert_true(g_main_context_iteration(gmain, true));
    g_assert_false(g_main_context_iteration(gmain, false));
    g_assert_cmpint(data.n, ==, 1);
    qemu_bh_delete(data.bh);
    data = (BHTest) { 0 };
    data.bh = aio_bh_new(own, bh_delete, &data);
    qemu_bh_schedule(data.bh);
    g_assert_true(g_main_context_iteration(gmain, true));
    while (g_main_context_iteration(gmain, false)) {
    }
    g_assert_cmpint(data.n, ==, 1);
    g_main_context_unref(gmain);
    aio_context_unref(own);
}

static void test_main_loop_wait(void)
{
    while (main_loop_wait(true)) {
    }
    g_assert_cmpint(main_loop_wait(true), ==, 0);
    qemu_notify_event();
    g_assert_cmpint(main_loop_wait(true), ==, 1);
    g_assert_cmpint(main_loop_wait(true), ==, 0);
    g_assert_true(qemu_get_current_aio_context() == qemu_get_aio_context());
    g_assert_true(qemu_in_main_thread());
    g_assert_false(qemu_in_iothread());
}

static void bql_user(void *opaque)
{
    /* Runs while the main loop waits without the lock. */
    bql_lock();
    ++*(int *)opaque;
    bql_unlock();
    qemu_notify_event();
}

static void test_bql(void)
{
    int n = 0;
    IOThread *iothread = iothread_create("bql", NULL);

    bql_lock();
    g_assert_true(bql_locked());
    {
        BQL_LOCK_GUARD();
        g_assert_true(bql_locked());
    }
    g_assert_true(bql_locked());
    aio_bh_schedule_oneshot(iothread_get_aio_context(iothread), bql_user, &n);
    while (!n) {
        main_loop_wait(false);
        g_assert_true(bql_locked());
    }
    bql_unlock();
    {
        BQL_LOCK_GUARD();
        g_assert_true(bql_locked());
    }
    g_assert_false(bql_locked());
    iothread_destroy(iothread);
}

static void seen_in_iothread(void *opaque)
{
    g_assert_true(qemu_in_iothread());
    g_assert_false(qemu_in_main_thread());
    *(AioContext **)opaque = qemu_get_current_aio_context();
}

static gpointer plain_thread(gpointer unused)
{
    (void)unused;
    return qemu_get_current_aio_context();
}

static void test_iothread(void)
{
    AioContext *seen = NULL;
    IOThread *iothread = iothread_create("iothread0", NULL);
    g_autofree char *id = iothread_get_id(iothread);

    g_assert_cmpstr(id, ==, "iothread0");
    g_assert_true(iothread_by_id("iothread0") == iothread);
    g_assert_null(iothread_by_id("nosuch"));
    g_assert_nonnull(iothread_get_g_main_context(iothread));
    aio_wait_bh_oneshot(iothread_get_aio_context(iothread), seen_in_iothread, &seen);
    g_assert_true(seen == iothread_get_aio_context(iothread));
    g_assert_false(in_aio_context_home_thread(seen));
    aio_context_set_poll_params(seen, 1000, 3, 4, NULL);
    g_autoptr(GVariant) max = qcontext_get_property(iothread, "poll-max-ns", NULL);
    g_autoptr(GVariant) grow = qcontext_get_property(iothread, "poll-grow", NULL);
    g_autoptr(GVariant) shrink = qcontext_get_property(iothread, "poll-shrink", NULL);
    g_assert_cmpint(g_variant_get_int64(max), ==, 1000);
    g_assert_cmpint(g_variant_get_int64(grow), ==, 3);
    g_assert_cmpint(g_variant_get_int64(shrink), ==, 4);
    Error *err = NULL;
    aio_context_set_poll_params(seen, 2000, -1, 4, &err);
    g_assert_error(err, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_error_free(err);
    g_autoptr(GVariant) same = qcontext_get_property(iothread, "poll-max-ns", NULL);
    g_assert_cmpint(g_variant_get_int64(same), ==, 1000);
    g_assert_null(g_thread_join(g_thread_new("plain", plain_thread, NULL)));
    iothread_destroy(iothread);
}

static int job(void *opaque)
{
    g_atomic_int_inc((int *)opaque);
    return 42;
}

static void job_done(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

static int slow_job(void *opaque)
{
    while (!g_atomic_int_get((int *)opaque)) {
        g_usleep(100);
    }
    return 0;
}

static void test_thread_pool(void)
{
    int ran = 0, ret = -1, release = 0, slow = -1, cancelled = -1;
    AioContext *own = aio_context_new(NULL), *before = qemu_get_current_aio_context();

    qemu_set_current_aio_context(own);
    thread_pool_submit_aio(job, &ran, job_done, &ret);
    /* Not before the first wait. */
    g_assert_cmpint(ret, ==, -1);
    while (ret != 42) {
        aio_poll(own, true);
    }
    g_assert_cmpint(ran, ==, 1);
    aio_context_set_thread_pool_params(own, 0, 1, NULL);
    thread_pool_submit_aio(slow_job, &release, job_done, &slow);
    BlockAIOCB *queued = thread_pool_submit_aio(job, &ran, job_done, &cancelled);
    bdrv_aio_cancel(queued);
    g_assert_cmpint(cancelled, ==, -ECANCELED);
    g_assert_cmpint(ran, ==, 1);
    g_atomic_int_set(&release, 1);
    while (slow) {
        aio_poll(own, true);
    }
    qemu_set_current_aio_context(before);
    aio_context_unref(own);
}

typedef struct {
    BlockAIOCB common;
    QEMUBH *bh;
} OwnRequest;

static int own_cancels;

static void own_request_done(void *opaque)
{
    OwnRequest *request = opaque;

    qemu_bh_delete(request->bh);
    request->common.cb(request->common.opaque, -ECANCELED);
    qemu_aio_unref(request);
}

static void own_request_cancel(BlockAIOCB *acb)
{
    OwnRequest *request = (OwnRequest *)acb;

    own_cancels++;
    qemu_bh_schedule(request->bh);
}

static void test_own_requests(void)
{
    static const AIOCBInfo info = { own_request_cancel, sizeof(OwnRequest) };
    int ret = 0;
    OwnRequest *request = qemu_aio_get(&info, NULL, job_done, &ret);

    g_assert_true(request->common.aiocb_info == &info);
    g_assert_null(request->common.bs);
    request->bh = qemu_bh_new(own_request_done, request);
    bdrv_aio_cancel(&request->common);
    g_assert_cmpint(ret, ==, -ECANCELED);
    g_assert_cmpint(own_cancels, ==, 1);
}

typedef struct {
    MemReentrancyGuard guard;
    QEMUBH *bh;
    int runs;
    bool seen, recurse;
} Guarded;

static void guarded(void *opaque)
{
    Guarded *device = opaque;

    device->seen = device->guard.engaged_in_io;
    device->runs++;
    if (device->recurse) {
        device->recurse = false;
        aio_bh_call(device->bh);
        g_assert_true(device->guard.engaged_in_io);
    }
}

static void guarded_delete(void *opaque)
{
    Guarded *device = opaque;

    guarded(opaque);
    qemu_bh_delete(device->bh);
}

static void test_guarded_bh(void)
{
    Guarded device = { { false }, NULL, 0, false, true };

    device.bh = aio_bh_new_guarded(ctx, guarded, &device, &device.guard);
    qemu_bh_schedule(device.bh);
    g_assert_false(device.guard.engaged_in_io);
    g_assert_true(aio_poll(ctx, false));
    g_assert_true(device.seen);
    g_assert_cmpint(device.runs, ==, 2);
    g_assert_false(device.guard.engaged_in_io);
    /* One that is engaged by the device itself stays so. */
    device.guard.engaged_in_io = true;
    qemu_bh_schedule(device.bh);
    g_assert_true(aio_poll(ctx, false));
    g_assert_cmpint(device.runs, ==, 3);
    g_assert_true(device.guard.engaged_in_io);
    device.guard.engaged_in_io = false;
    qemu_bh_delete(device.bh);
    /* Deleted inside its callback. */
    device.bh = qemu_bh_new_guarded(guarded_delete, &device, &device.guard);
    qemu_bh_schedule(device.bh);
    while (device.runs < 4) {
        main_loop_wait(false);
    }
    g_assert_true(device.seen);
    g_assert_false(device.guard.engaged_in_io);
}

static void test_bh_poll(void)
{
    BHTest data = { .max = 2 };
    NotifierTest event = { .active = 1 };

    g_assert_cmpint(event_notifier_init(&event.e, true), ==, 0);
    aio_set_event_notifier(ctx, &event.e, notifier_ready, NULL, NULL);
    data.bh = aio_bh_new(ctx, bh_test, &data);
    g_assert_cmpint(aio_bh_poll(ctx), ==, 0);
    qemu_bh_schedule(data.bh);
    g_assert_cmpint(aio_bh_poll(ctx), ==, 1);
    g_assert_cmpint(data.n, ==, 1);
    g_assert_cmpint(aio_bh_poll(ctx), ==, 1);
    g_assert_cmpint(data.n, ==, 2);
    qemu_bh_schedule_idle(data.bh);
    g_assert_cmpint(aio_bh_poll(ctx), ==, 0);
    g_assert_cmpint(data.n, ==, 3);
    g_assert_cmpint(event.n, ==, 0);
    g_assert_true(aio_poll(ctx, false));
    g_assert_cmpint(event.n, ==, 1);
    aio_set_event_notifier(ctx, &event.e, NULL, NULL, NULL);
    event_notifier_cleanup(&event.e);
    qemu_bh_delete(data.bh);
    aio_poll(ctx, false);
}

static void test_compute_timeout(void)
{
    BHTest data = { .max = 1 };
    TimerTest timer = { .max = 1, .clock = QEMU_CLOCK_REALTIME };

    g_assert_cmpint(aio_compute_timeout(ctx), ==, -1);
    data.bh = aio_bh_new(ctx, bh_test, &data);
    aio_timer_init(ctx, &timer.timer, timer.clock, SCALE_MS, timer_fired, &timer);
    timer_mod(&timer.timer, qemu_clock_get_ms(timer.clock) + 3600 * 1000);
    g_assert_cmpint(aio_compute_timeout(ctx), >, 3000 * NANOSECONDS_PER_SECOND);
    g_assert_cmpint(aio_compute_timeout(ctx), <=, 3600 * NANOSECONDS_PER_SECOND);
    qemu_bh_schedule_idle(data.bh);
    g_assert_cmpint(aio_compute_timeout(ctx), ==, 10 * SCALE_MS);
    qemu_bh_schedule(data.bh);
    g_assert_cmpint(aio_compute_timeout(ctx), ==, 0);
    qemu_bh_delete(data.bh);
    timer_del(&timer.timer);
    g_assert_cmpint(aio_compute_timeout(ctx), ==, -1);
    aio_poll(ctx, false);
}

/* Polling. A wait of any length is short enough to learn from. */
typedef struct {
    EventNotifier e, dummy;
    AioContext *ctx;
    bool work, nested;
    int reads, asked, ready, begins, ends, dummy_reads;
} PollTest;

static PollTest poll_test;

static void polled_read(EventNotifier *e)
{
    g_assert_cmpint(event_notifier_test_and_clear(e), ==, 1);
    poll_test.reads++;
}

static bool polled_look(void *opaque)
{
    g_assert_true(opaque == &poll_test.e);
    g_assert_false(poll_test.nested);
    poll_test.asked++;
    return poll_test.work;
}

static void polled_ready(EventNotifier *e)
{
    g_assert_true(e == &poll_test.e);
    g_assert_false(poll_test.nested);
    poll_test.ready++;
    poll_test.work = false;
    poll_test.nested = true;
    event_notifier_set(&poll_test.dummy);
    g_assert_true(aio_poll(poll_test.ctx, true));
    poll_test.nested = false;
}

static void polled_begin(EventNotifier *e)
{
    g_assert_true(e == &poll_test.e);
    poll_test.begins++;
}

static void polled_end(EventNotifier *e)
{
    g_assert_true(e == &poll_test.e);
    poll_test.ends++;
}

static void dummy_read(EventNotifier *e)
{
    g_assert_cmpint(event_notifier_test_and_clear(e), ==, 1);
    poll_test.dummy_reads++;
}

static bool dummy_look(void *opaque)
{
    (void)opaque;
    return false;
}

static void dummy_ready(EventNotifier *e)
{
    (void)e;
    g_assert_not_reached();
}

static void test_polling(void)
{
    PollTest *t = &poll_test;
    Error *err = NULL;

    t->ctx = aio_context_new(NULL);
    aio_context_set_poll_params(t->ctx, G_MAXINT64, 2, 2, &err);
    g_assert_no_error(err);
    g_assert_cmpint(event_notifier_init(&t->e, false), ==, 0);
    g_assert_cmpint(event_notifier_init(&t->dummy, false), ==, 0);
    aio_set_event_notifier(t->ctx, &t->e, polled_read, polled_look, polled_ready);
    aio_set_event_notifier_poll(t->ctx, &t->e, polled_begin, polled_end);
    aio_set_event_notifier(t->ctx, &t->dummy, dummy_read, dummy_look, dummy_ready);
    /* When everything can be polled, a look without waiting is no look at the kernel. */
    event_notifier_set(&t->e);
    g_assert_false(aio_poll(t->ctx, false));
    g_assert_true(aio_poll(t->ctx, true));
    g_assert_cmpint(t->reads, ==, 1);
    event_notifier_set(&t->e);
    g_assert_true(aio_poll(t->ctx, true));
    g_assert_cmpint(t->reads, ==, 2);
    g_assert_cmpint(t->ready, ==, 0);
    for (int i = 1; i <= 3; i++) {
        t->work = true;
        g_assert_true(aio_poll(t->ctx, true));
        g_assert_cmpint(t->ready, ==, i);
        g_assert_cmpint(t->dummy_reads, ==, i);
    }
    g_assert_cmpint(t->reads, ==, 2);
    g_assert_cmpint(t->begins, >, 0);
    /* Nothing to be found: notifications are on before the wait. */
    event_notifier_set(&t->e);
    g_assert_true(aio_poll(t->ctx, true));
    g_assert_cmpint(t->reads, ==, 3);
    g_assert_cmpint(t->begins, ==, t->ends);
    int begins = t->begins;
    aio_set_event_notifier_poll(t->ctx, &t->e, NULL, NULL);
    t->work = true;
    g_assert_true(aio_poll(t->ctx, true));
    g_assert_cmpint(t->begins, ==, begins);
    aio_set_event_notifier(t->ctx, &t->e, NULL, NULL, NULL);
    aio_set_event_notifier(t->ctx, &t->dummy, NULL, NULL, NULL);
    /* Without a handler there is nothing to change. */
    aio_set_event_notifier_poll(t->ctx, &t->e, polled_begin, polled_end);
    event_notifier_cleanup(&t->e);
    event_notifier_cleanup(&t->dummy);
    aio_context_unref(t->ctx);
}

static void test_every_way_to_make_a_timer(void)
{
    /* Each is due at once, in its own unit; the far ones are not. */
    QEMUTimer own[4];
    QEMUTimer *heap[6];
    int n = 0, wanted = 0;
    const int attributes = QEMU_TIMER_ATTR_EXTERNAL;

    timer_init(&own[0], QEMU_CLOCK_REALTIME, SCALE_NS, count, &n);
    timer_init_ns(&own[1], QEMU_CLOCK_VIRTUAL, count, &n);
    timer_init_ms(&own[2], QEMU_CLOCK_HOST, count, &n);
    timer_init_full(&own[3], NULL, QEMU_CLOCK_VIRTUAL_RT, SCALE_US, attributes, count, &n);
    heap[0] = timer_new(QEMU_CLOCK_REALTIME, SCALE_US, count, &n);
    heap[1] = timer_new_ns(QEMU_CLOCK_VIRTUAL, count, &n);
    heap[2] = timer_new_us(QEMU_CLOCK_HOST, count, &n);
    heap[3] = timer_new_full(NULL, QEMU_CLOCK_REALTIME, SCALE_MS, QEMU_TIMER_ATTR_ALL, count, &n);
    heap[4] = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME, SCALE_NS, count, &n);
    heap[5] = aio_timer_new_with_attrs(qemu_get_aio_context(), QEMU_CLOCK_REALTIME, SCALE_NS, attributes, count, &n);
    for (size_t i = 0; i < G_N_ELEMENTS(own); i++, wanted++) {
        timer_mod_ns(&own[i], 1);
        g_assert_cmpuint(timer_expire_time_ns(&own[i]), ==, 1);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(heap); i++, wanted++) {
        timer_mod_ns(heap[i], G_MAXINT64);
        timer_mod_anticipate_ns(heap[i], 1);
        g_assert_cmpuint(timer_expire_time_ns(heap[i]), ==, 1);
    }
    while (n < wanted) {
        main_loop_wait(false);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(own); i++) {
        timer_del(&own[i]);
    }
    aio_timer_init_with_attrs(ctx, &own[0], QEMU_CLOCK_VIRTUAL, SCALE_NS, attributes, count, &n);
    qemu_clock_enable(QEMU_CLOCK_VIRTUAL, false);
    timer_mod(&own[0], 0);
    g_assert_false(aio_poll(ctx, false));
    g_assert_cmpint(n, ==, wanted);
    qemu_clock_enable(QEMU_CLOCK_VIRTUAL, true);
    while (n == wanted) {
        aio_poll(ctx, true);
    }
    g_assert_cmpint(n, ==, wanted + 1);
    timer_del(&own[0]);
    for (size_t i = 0; i < G_N_ELEMENTS(heap); i++) {
        timer_free(heap[i]);
    }
}

static void test_bottom_halves_by_name(void)
{
    BHTest data = { .max = 1 };

    data.bh = aio_bh_new_full(ctx, bh_test, &data, "by name", NULL);
    qemu_bh_schedule(data.bh);
    aio_bh_schedule_oneshot_full(ctx, bh_test, &data, "once");
    g_assert_true(aio_poll(ctx, false));
    g_assert_cmpint(data.n, ==, 2);
    qemu_bh_delete(data.bh);
    data.bh = qemu_bh_new_full(bh_test, &data, "main", NULL);
    qemu_bh_schedule(data.bh);
    while (data.n < 3) {
        main_loop_wait(false);
    }
    qemu_bh_delete(data.bh);
    aio_poll(ctx, false);
}

static void test_notify_and_references(void)
{
    AioContext *own = aio_context_new(NULL);

    aio_context_ref(own);
    aio_context_unref(own);
    aio_context_set_aio_params(own, 8);
    /* Ends a wait, and is no progress. */
    aio_notify(own);
    g_assert_false(aio_poll(own, true));
    aio_context_unref(own);
}

static void handled(EventNotifier *e)
{
    NotifierTest *data = (NotifierTest *)e;

    g_assert_true(event_notifier_test_and_clear(e));
    data->n++;
}

static void test_notifier_on_the_main_loop(void)
{
    NotifierTest made = { .n = 0 }, given = { .n = 0 };

    g_assert_cmpint(event_notifier_init(&made.e, false), ==, 0);
    event_notifier_init_fd(&given.e, dup(event_notifier_get_fd(&made.e)));
    g_assert_cmpint(event_notifier_get_fd(&given.e), !=, event_notifier_get_fd(&made.e));
    g_assert_cmpint(event_notifier_get_wfd(&given.e), >=, 0);
    event_notifier_set_handler(&given.e, handled);
    /* One file: what is signalled at one end is seen at the other. */
    g_assert_cmpint(event_notifier_set(&made.e), ==, 0);
    while (!given.n) {
        main_loop_wait(false);
    }
    event_notifier_set_handler(&given.e, NULL);
    g_assert_cmpint(event_notifier_set(&made.e), ==, 0);
    while (main_loop_wait(true)) {
    }
    g_assert_cmpint(given.n, ==, 1);
    event_notifier_cleanup(&given.e);
    event_notifier_cleanup(&made.e);
}

static void count_and_kick(void *opaque)
{
    g_atomic_int_inc((int *)opaque);
    aio_wait_kick();
}

static void test_waiting(void)
{
    int n = 0;
    IOThread *iothread = iothread_create("waiting", NULL);
    AioContext *aio = iothread_get_aio_context(iothread);

    GLOBAL_STATE_CODE();
    IO_CODE();
    IO_OR_GS_CODE();
    aio_bh_schedule_oneshot(aio, count_and_kick, &n);
    AIO_WAIT_WHILE(aio, !g_atomic_int_get(&n));
    g_assert_cmpint(n, ==, 1);
    aio_bh_schedule_oneshot(aio, count_and_kick, &n);
    AIO_WAIT_WHILE_UNLOCKED(NULL, g_atomic_int_get(&n) < 2);
    g_assert_false(AIO_WAIT_WHILE(aio, false));
    g_assert_cmpint(n, ==, 2);
    iothread_stop(iothread);
    iothread_stop(iothread);
    iothread_destroy(iothread);
}

static void test_cancel_without_waiting(void)
{
    int ran = 0, release = 0, slow = -1, ret = 0;
    AioContext *own = aio_context_new(NULL), *before = qemu_get_current_aio_context();

    qemu_set_current_aio_context(own);
    aio_context_set_thread_pool_params(own, 0, 1, NULL);
    thread_pool_submit_aio(slow_job, &release, job_done, &slow);
    BlockAIOCB *queued = thread_pool_submit_aio(job, &ran, job_done, &ret);
    qemu_aio_ref(queued);
    bdrv_aio_cancel_async(queued);
    /* Not inside the call. */
    g_assert_cmpint(ret, ==, 0);
    while (!ret) {
        aio_poll(own, true);
    }
    g_assert_cmpint(ret, ==, -ECANCELED);
    g_assert_cmpint(ran, ==, 0);
    qemu_aio_unref(queued);
    g_atomic_int_set(&release, 1);
    while (slow) {
        aio_poll(own, true);
    }
    qemu_set_current_aio_context(before);
    aio_context_unref(own);
}

static void read_once(void *opaque)
{
    char byte;

    g_assert_cmpint(read(((int *)opaque)[0], &byte, 1), ==, 1);
    ((int *)opaque)[1]++;
}

static void test_iohandlers(void)
{
    AioContext *iohandlers = iohandler_get_aio_context();
    GSource *source = iohandler_get_g_source();
    int fds[2], state[2] = { -1, 0 };

    g_assert_nonnull(iohandlers);
    g_assert_true(iohandlers != qemu_get_aio_context());
    g_assert_true(iohandlers == iohandler_get_aio_context());
    /* As a main loop of one's own does it; nothing is served twice. */
    g_assert_cmpuint(g_source_attach(source, NULL), !=, 0);
    g_assert_cmpint(pipe(fds), ==, 0);
    state[0] = fds[0];
    qemu_set_fd_handler(fds[0], read_once, NULL, state);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    while (!state[1]) {
        main_loop_wait(false);
    }
    while (main_loop_wait(true)) {
    }
    g_assert_cmpint(state[1], ==, 1);
    /* One table: what one call sets, the other removes. */
    aio_set_fd_handler(iohandlers, fds[0], NULL, NULL, NULL, NULL, NULL);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    while (main_loop_wait(true)) {
    }
    g_assert_cmpint(state[1], ==, 1);
    aio_set_fd_handler(iohandlers, fds[0], read_once, NULL, NULL, NULL, state);
    while (state[1] < 2) {
        main_loop_wait(false);
    }
    qemu_set_fd_handler(fds[0], NULL, NULL, NULL);
    g_source_destroy(source);
    g_source_unref(source);
    close(fds[0]);
    close(fds[1]);
}

static void test_unwatchable_fd(void)
{
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    close(fds[0]);
    close(fds[1]);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*qcontext: *");
    g_assert_cmpint(qemu_set_fd_handler(fds[0], read_once, NULL, NULL), ==, -1);
    g_test_assert_expected_messages();
    g_assert_cmpint(qemu_set_fd_handler(fds[0], NULL, NULL, NULL), ==, 0);
}

static void read_pipe(void *opaque)
{
    char byte;

    g_assert_cmpint(read(*(int *)opaque, &byte, 1), ==, 1);
    *(int *)opaque = -1;
}

static void test_fd_handler(void)
{
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    int fd = fds[0];
    qemu_set_fd_handler(fds[0], read_pipe, NULL, &fd);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    while (fd >= 0) {
        main_loop_wait(false);
    }
    qemu_set_fd_handler(fds[0], NULL, NULL, NULL);
    close(fds[0]);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    alarm(120);
    init_clocks(NULL);
    g_assert_null(qemu_get_aio_context());
    g_assert_cmpint(qemu_init_main_loop(NULL), ==, 0);
    ctx = aio_context_new(NULL);
    while (aio_poll(ctx, false)) {
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/compat/bh-runs-once-per-poll", test_bh_runs_once_per_poll);
    g_test_add_func("/compat/bh-idle-is-no-progress", test_bh_idle_is_no_progress);
    g_test_add_func("/compat/many-deletes", test_many_deletes);
    g_test_add_func("/compat/notifier", test_notifier);
    g_test_add_func("/compat/timer", test_timer);
    g_test_add_func("/compat/main-loop-timers", test_main_loop_timers);
    g_test_add_func("/compat/as-g-source", test_as_g_source);
    g_test_add_func("/compat/main-loop-wait", test_main_loop_wait);
    g_test_add_func("/compat/bql", test_bql);
    g_test_add_func("/compat/iothread", test_iothread);
    g_test_add_func("/compat/thread-pool", test_thread_pool);
    g_test_add_func("/compat/every-way-to-make-a-timer", test_every_way_to_make_a_timer);
    g_test_add_func("/compat/bottom-halves-by-name", test_bottom_halves_by_name);
    g_test_add_func("/compat/notify-and-references", test_notify_and_references);
    g_test_add_func("/compat/notifier-on-the-main-loop", test_notifier_on_the_main_loop);
    g_test_add_func("/compat/waiting", test_waiting);
    g_test_add_func("/compat/cancel-without-waiting", test_cancel_without_waiting);
    g_test_add_func("/compat/own-requests", test_own_requests);
    g_test_add_func("/compat/guarded-bh", test_guarded_bh);
    g_test_add_func("/compat/bh-poll", test_bh_poll);
    g_test_add_func("/compat/compute-timeout", test_compute_timeout);
    g_test_add_func("/compat/polling", test_polling);
    g_test_add_func("/compat/iohandlers", test_iohandlers);
    g_test_add_func("/compat/unwatchable-fd", test_unwatchable_fd);
    g_test_add_func("/compat/fd-handler", test_fd_handler);
    int result = g_test_run();
    aio_context_unref(ctx);
    return result;
}
