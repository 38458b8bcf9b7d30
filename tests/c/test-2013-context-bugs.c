/* Mistakes of the QContext of 2013 in its contexts, each as a test of what happens instead, by the names and signatures of that
 * year. Numbered as in docs/predecessor-hazards.md. Not here: 13, 14, 17, 19 to 21
 * (test-context.c, test-source.c, test-iterate.c, test-object.c), 22 (type registration). */
#include "pipe-2013.h"

static gboolean count_and_end(gpointer data)
{
    ++*(int *)data;
    return G_SOURCE_REMOVE;
}

static void bug_11_ready_sources_never_run(void)
{
    /* A source that is ready at prepare: one iteration runs it, and then there is nothing left. */
    QContext *ctx = qcontext_new("bug-11", false, NULL);
    GSource *idle = g_idle_source_new();
    int runs = 0;

    g_source_set_callback(idle, count_and_end, &runs, NULL);
    qcontext_attach_source(ctx, idle, "idle");
    g_assert_true(qcontext_iterate(ctx, true));
    g_assert_cmpint(runs, ==, 1);
    drain(ctx);
    g_assert_cmpint(runs, ==, 1);
    g_source_unref(idle);
    qcontext_unref(ctx);
}

static gpointer try_to_acquire(gpointer ctx)
{
    return GINT_TO_POINTER(qcontext_acquire(ctx));
}

static void bug_12_nobody_owns_the_loop(void)
{
    QContext *ctx = qcontext_new("bug-12", false, NULL), *threaded = qcontext_new("bug-12t", true, NULL);

    g_assert_false(qcontext_acquire(threaded));
    g_assert_true(qcontext_acquire(ctx));
    g_assert_null(g_thread_join(g_thread_new("second", try_to_acquire, ctx)));
    qcontext_release(ctx);
    qcontext_stop_thread(threaded);
    qcontext_unref(threaded);
    qcontext_unref(ctx);
}

static void bug_15_detach_from_the_default_context(void)
{
    /* Ids of sources count per GMainContext: that of the same number on the default one stays. */
    QContext *ctx = qcontext_new("bug-15", false, NULL);
    GSource *ours = g_timeout_source_new(1000000), *theirs = g_timeout_source_new(1000000);

    qcontext_attach_source(ctx, ours, "ours");
    guint id = g_source_get_id(ours);
    while (g_source_attach(theirs, NULL) < id) {
        g_source_destroy(theirs);
        g_source_unref(theirs);
        theirs = g_timeout_source_new(1000000);
    }
    qcontext_destroy_source(ctx, ours);
    g_assert_true(g_source_is_destroyed(ours));
    g_assert_null(qcontext_find_source_by_name(ctx, "ours"));
    g_assert_false(g_source_is_destroyed(theirs));
    g_source_destroy(theirs);
    g_source_unref(theirs);
    g_source_unref(ours);
    qcontext_unref(ctx);
}

static void change_self(void *opaque)
{
    Pipe *self = opaque;

    self->act = NULL;
    set_fd_handler(self->ctx, self->fds[0], NULL, pipe_write, self);
    set_fd_handler(self->ctx, self->fds[0], pipe_read, NULL, self);
}

static void bug_16_changes_detach_the_source(void)
{
    /* A handler that changes itself while it runs loses nothing that is pending, its own or another's. */
    QContext *ctx = qcontext_new("bug-16", false, NULL);
    Pipe one, two;

    pipe_open(&one, ctx);
    pipe_open(&two, ctx);
    one.act = two.act = change_self;
    for (int i = 0; i < 3; i++) {
        pipe_put(&one);
        pipe_put(&two);
    }
    set_fd_handler(ctx, one.fds[0], pipe_read, NULL, &one);
    set_fd_handler(ctx, two.fds[0], pipe_read, NULL, &two);
    drain(ctx);
    g_assert_cmpint(one.reads, ==, 3);
    g_assert_cmpint(two.reads, ==, 3);
    set_fd_handler(ctx, one.fds[0], NULL, NULL, NULL);
    set_fd_handler(ctx, two.fds[0], NULL, NULL, NULL);
    qcontext_unref(ctx);
    pipe_close(&one);
    pipe_close(&two);
}

static void bug_18_array_of_the_wrong_type(void)
{
    QContext *ctx = qcontext_new("bug-18", false, NULL);
    g_autoptr(GArray) pointers = g_array_new(false, false, sizeof(char));
    gint timeout;

    g_assert_true(qcontext_acquire(ctx));
    g_test_expect_message("qcontext", G_LOG_LEVEL_CRITICAL, "*not one of GPollFD*");
    g_assert_cmpint(qcontext_append_query(ctx, 0, &timeout, pointers), ==, 0);
    g_test_assert_expected_messages();
    g_assert_cmpuint(pointers->len, ==, 0);
    qcontext_release(ctx);
    qcontext_unref(ctx);
}

static void count_run(void *opaque)
{
    g_atomic_int_inc((gint *)opaque);
}

static gpointer schedule_idle(gpointer bh)
{
    qemu_bh_schedule_idle(bh);
    return NULL;
}

static void bug_23_idle_bottom_half_wakes_nobody(void)
{
    /* Scheduled by another thread while the loop sleeps with nothing else to do. */
    QContext *ctx = qcontext_new("bug-23", true, NULL);
    AioContext *aio = aio_context_new();
    gint runs = 0;

    aio_context_attach(aio, ctx);
    QEMUBH *bh = aio_bh_new(aio, count_run, &runs);
    for (int i = 1; i <= 5; i++) {
        g_thread_join(g_thread_new("scheduler", schedule_idle, bh));
        wait_for(&runs, i);
    }
    qemu_bh_delete(bh);
    qcontext_stop_thread(ctx);
    aio_context_unref(aio);
    qcontext_unref(ctx);
}

static void bug_24_dispatch_polls_again(void)
{
    /* One iteration is one pass: a bottom half that schedules itself runs once in each. */
    GMainContext *gmain = g_main_context_new();
    AioContext *aio = aio_context_new();
    GSource *source = aio_get_g_source(aio);
    gint runs = 0;
    QEMUBH *bh = aio_bh_new(aio, count_run, &runs);

    g_source_attach(source, gmain);
    while (g_main_context_iteration(gmain, false)) {
    }
    for (int i = 1; i <= 5; i++) {
        qemu_bh_schedule(bh);
        g_assert_true(g_main_context_iteration(gmain, false));
        g_assert_cmpint(runs, ==, i);
        g_assert_false(g_main_context_iteration(gmain, false));
    }
    qemu_bh_delete(bh);
    g_source_destroy(source);
    g_source_unref(source);
    g_main_context_unref(gmain);
    aio_context_unref(aio);
}

static int never_busy(void *opaque)
{
    (void)opaque;
    return 0;
}

static gpointer put_later(gpointer pair)
{
    pipe_put(pair);
    return NULL;
}

static void bug_25_waits_only_for_busy_handlers(void)
{
    AioContext *aio = aio_context_new();
    Pipe pair;

    pipe_open(&pair, NULL);
    aio_context_acquire(aio);
    aio_set_fd_handler(aio, pair.fds[0], pipe_read, NULL, never_busy, &pair);
    GThread *thread = g_thread_new("writer", put_later, &pair);
    g_assert_true(aio_poll(aio, true));
    g_assert_cmpint(pair.reads, ==, 1);
    g_thread_join(thread);
    aio_set_fd_handler(aio, pair.fds[0], NULL, NULL, NULL, NULL);
    aio_context_release(aio);
    aio_context_unref(aio);
    pipe_close(&pair);
}

static void bug_26_the_main_context_has_another_name(void)
{
    Error *err = NULL;

    g_assert_true(qcontext_find_by_name(QEMU_QCONTEXT_MAIN, &err) == qemu_get_qcontext());
    g_assert_no_error(err);
    g_assert_null(qcontext_find_by_name("main", &err));
    g_assert_error(err, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_error_free(err);
}

static void bug_27_stop_while_the_device_runs(void)
{
    /* Stopped from the main thread in the middle of dispatching: afterwards nothing of the device runs, and it may be freed. */
    for (int i = 0; i < 20; i++) {
        QContext *ctx = qcontext_new("bug-27", true, NULL);
        AioContext *aio = aio_context_new();
        Pipe *device = g_new(Pipe, 1);

        pipe_open(device, ctx);
        aio_context_attach(aio, ctx);
        aio_set_fd_handler(aio, device->fds[1], NULL, pipe_write, NULL, device);
        wait_for(&device->writes, 1);
        qcontext_stop_thread(ctx);
        aio_context_unref(aio);
        pipe_close(device);
        memset(device, 0xff, sizeof(*device));
        g_free(device);
        qcontext_unref(ctx);
    }
}

static void bug_28_errors_end_the_program(void)
{
    Error *err = NULL;
    QContext *ctx = qcontext_new("bug-28", false, NULL);

    g_assert_null(qcontext_new("bug-28", true, &err));
    g_assert_error(err, QCONTEXT_ERROR, QCONTEXT_ERROR_EXISTS);
    g_error_free(err);
    g_assert_true(qcontext_find_by_name("bug-28", NULL) == ctx);
    qcontext_unref(ctx);
}

static gpointer notify_event(gpointer unused)
{
    (void)unused;
    qemu_notify_event();
    return NULL;
}

static void bug_29_notification_misses_the_iohandlers(void)
{
    /* A notification from another thread ends the wait, and a paused handler is asked again by that. */
    Pipe pair;

    pipe_open(&pair, qemu_get_qcontext());
    pair.paused = true;
    qemu_set_fd_handler2(pair.fds[0], pipe_may_read, pipe_read, NULL, &pair);
    pipe_put(&pair);
    while (!pair.asked) {
        main_loop_wait(false);
    }
    while (main_loop_wait(true)) {
    }
    pair.paused = false;
    GThread *thread = g_thread_new("notifier", notify_event, NULL);
    while (!pair.reads) {
        main_loop_wait(false);
    }
    g_thread_join(thread);
    qemu_set_fd_handler2(pair.fds[0], NULL, NULL, NULL, NULL);
    pipe_close(&pair);
}

int main(int argc, char **argv)
{
    alarm(120);
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(qemu_init_main_loop(), ==, 0);
#define ADD(name) g_test_add_func("/2013/" #name, name)
    ADD(bug_11_ready_sources_never_run);
    ADD(bug_12_nobody_owns_the_loop);
    ADD(bug_15_detach_from_the_default_context);
    ADD(bug_16_changes_detach_the_source);
    ADD(bug_18_array_of_the_wrong_type);
    ADD(bug_23_idle_bottom_half_wakes_nobody);
    ADD(bug_24_dispatch_polls_again);
    ADD(bug_25_waits_only_for_busy_handlers);
    ADD(bug_26_the_main_context_has_another_name);
    ADD(bug_27_stop_while_the_device_runs);
    ADD(bug_28_errors_end_the_program);
    ADD(bug_29_notification_misses_the_iohandlers);
    return g_test_run();
}
