/* Mistakes of the QContext of 2013 in its fd handlers, each as a test of what happens instead, by the names and signatures of that
 * year. Numbered as in docs/predecessor-hazards.md. Not here: 8, a condition variable that is gone. */
#include "pipe-2013.h"

static GMutex lock;

static void bug_1_lock_kept_after_check(void)
{
    /* Once something was ready, every other thread that registered waited for ever. */
    QContext *ctx = qcontext_new("bug-1", true, NULL);
    Pipe busy, other;

    pipe_open(&busy, ctx);
    pipe_open(&other, ctx);
    set_fd_handler(ctx, busy.fds[1], NULL, pipe_write, &busy);
    for (int i = 1; i <= 100; i++) {
        wait_for(&busy.writes, i);
        set_fd_handler(ctx, other.fds[0], pipe_read, NULL, &other);
        set_fd_handler(ctx, other.fds[0], NULL, NULL, NULL);
    }
    qcontext_stop_thread(ctx);
    qcontext_unref(ctx);
    pipe_close(&busy);
    pipe_close(&other);
}

static void bug_2_read_callback_for_any_event(void)
{
    QContext *ctx = qcontext_new("bug-2", false, NULL);
    Pipe pair;

    pipe_open(&pair, ctx);
    /* The writing end is writable and never readable. */
    set_fd_handler(ctx, pair.fds[1], pipe_read, pipe_write, &pair);
    g_assert_true(qcontext_iterate(ctx, true));
    g_assert_cmpint(pair.writes, ==, 1);
    g_assert_cmpint(pair.reads, ==, 0);
    set_fd_handler(ctx, pair.fds[1], NULL, NULL, NULL);
    qcontext_unref(ctx);
    pipe_close(&pair);
}

static void locked_read(void *opaque)
{
    g_mutex_lock(&lock);
    pipe_read(opaque);
    g_mutex_unlock(&lock);
}

static int locked_may_read(void *opaque)
{
    g_mutex_lock(&lock);
    int answer = pipe_may_read(opaque);
    g_mutex_unlock(&lock);
    return answer;
}

static void bug_3_callbacks_under_the_list_lock(void)
{
    /* Lock, then register; callbacks do it the other way round. Also bugs 9 and 10, which waited for callbacks. */
    QContext *ctx = qcontext_new("bug-3", true, NULL);
    Pipe pair;

    pipe_open(&pair, ctx);
    for (int i = 1; i <= 300; i++) {
        g_mutex_lock(&lock);
        set_fd_handler2(ctx, pair.fds[0], locked_may_read, locked_read, NULL, &pair);
        pipe_put(&pair);
        g_mutex_unlock(&lock);
        g_mutex_lock(&lock);
        set_fd_handler(ctx, pair.fds[0], NULL, NULL, NULL);
        g_mutex_unlock(&lock);
    }
    qcontext_stop_thread(ctx);
    g_assert_cmpint(pair.reads, <=, 300);
    qcontext_unref(ctx);
    pipe_close(&pair);
}

static void bug_4_wakes_every_ten_milliseconds(void)
{
    QContext *ctx = qcontext_new("bug-4", false, NULL);
    g_autoptr(GArray) fds = g_array_new(false, false, sizeof(GPollFD));
    gint priority, timeout = 0;
    Pipe pair;

    pipe_open(&pair, ctx);
    set_fd_handler2(ctx, pair.fds[0], pipe_may_read, pipe_read, NULL, &pair);
    drain(ctx);
    g_assert_true(qcontext_acquire(ctx));
    g_assert_false(qcontext_prepare(ctx, &priority));
    g_assert_cmpint(qcontext_append_query(ctx, priority, &timeout, fds), >, 0);
    g_assert_cmpint(timeout, ==, -1);
    g_assert_false(qcontext_check(ctx, priority, (GPollFD *)fds->data, (gint)fds->len));
    qcontext_release(ctx);
    set_fd_handler(ctx, pair.fds[0], NULL, NULL, NULL);
    qcontext_unref(ctx);
    pipe_close(&pair);
}

static void bug_5_removed_fd_stays_polled(void)
{
    /* Closed at once after the removal: no busy loop. Added anew: nothing of the old record comes back. */
    QContext *ctx = qcontext_new("bug-5", false, NULL);
    Pipe old, fresh;

    pipe_open(&old, ctx);
    pipe_put(&old);
    set_fd_handler(ctx, old.fds[0], pipe_read, NULL, &old);
    set_fd_handler(ctx, old.fds[0], NULL, NULL, NULL);
    pipe_close(&old);
    drain(ctx);
    g_assert_false(qcontext_iterate(ctx, false));
    pipe_open(&fresh, ctx);
    g_assert_cmpint(fresh.fds[0], ==, old.fds[0]);
    set_fd_handler(ctx, fresh.fds[0], pipe_read, NULL, &fresh);
    drain(ctx);
    g_assert_cmpint(old.reads + fresh.reads, ==, 0);
    pipe_put(&fresh);
    g_assert_true(qcontext_iterate(ctx, true));
    g_assert_cmpint(fresh.reads, ==, 1);
    set_fd_handler(ctx, fresh.fds[0], NULL, NULL, NULL);
    qcontext_unref(ctx);
    pipe_close(&fresh);
}

static void bug_6_end_with_handlers(void)
{
    /* A context ends with what is still registered: memcheck looks for what is freed twice or not at all. */
    for (int threaded = 0; threaded <= 1; threaded++) {
        QContext *ctx = qcontext_new("bug-6", threaded, NULL);
        AioContext *aio = aio_context_new();
        Pipe one, two;

        pipe_open(&one, ctx);
        pipe_open(&two, ctx);
        aio_context_attach(aio, ctx);
        set_fd_handler(ctx, one.fds[0], pipe_read, NULL, &one);
        aio_set_fd_handler(aio, two.fds[0], pipe_read, NULL, NULL, &two);
        qcontext_stop_thread(ctx);
        qcontext_unref(ctx);
        g_assert_null(qcontext_find_by_name("bug-6", NULL));
        aio_context_unref(aio);
        pipe_close(&one);
        pipe_close(&two);
    }
}

static void bug_7_iohandlers_twice_or_never(void)
{
    QContext *ctx = qcontext_new("bug-7", false, NULL);
    Pipe pair;

    pipe_open(&pair, ctx);
    g_assert_cmpint(set_fd_handler(ctx, pair.fds[0], pipe_read, NULL, &pair), ==, 0);
    iohandler_attach(ctx);
    iohandler_attach(ctx);
    pipe_put(&pair);
    drain(ctx);
    g_assert_cmpint(pair.reads, ==, 1);
    g_assert_cmpint(set_fd_handler(ctx, pair.fds[0], NULL, NULL, NULL), ==, 0);
    pipe_close(&pair);
    /* A refusal has a result, and ends nothing. */
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*qcontext: *");
    g_assert_cmpint(set_fd_handler(ctx, pair.fds[0], pipe_read, NULL, &pair), ==, -1);
    g_test_assert_expected_messages();
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*-1 is not a file descriptor*");
    g_assert_cmpint(set_fd_handler(ctx, -1, pipe_read, NULL, &pair), ==, -1);
    g_test_assert_expected_messages();
    qcontext_unref(ctx);
}

static Pipe *victim;

static void remove_victim_and_iterate(void *opaque)
{
    Pipe *self = opaque;

    self->act = NULL;
    set_fd_handler(self->ctx, victim->fds[0], NULL, NULL, NULL);
    set_fd_handler(self->ctx, self->fds[0], NULL, NULL, NULL);
    qcontext_iterate(self->ctx, false);
    qcontext_iterate(self->ctx, false);
}

static void bug_9_nested_loop_frees_records(void)
{
    /* Two handlers are ready; the first removes both and iterates inside its callback. */
    QContext *ctx = qcontext_new("bug-9", false, NULL);
    Pipe one, two;

    pipe_open(&one, ctx);
    pipe_open(&two, ctx);
    one.act = two.act = remove_victim_and_iterate;
    pipe_put(&one);
    pipe_put(&two);
    set_fd_handler(ctx, one.fds[0], pipe_read, NULL, &one);
    set_fd_handler(ctx, two.fds[0], pipe_read, NULL, &two);
    /* Whichever comes first, the other one is not called any more. */
    victim = &two;
    two.act = NULL;
    qcontext_iterate(ctx, true);
    drain(ctx);
    g_assert_cmpint(one.reads, ==, 1);
    g_assert_cmpint(two.reads, <=, 1);
    gint before = two.reads;
    drain(ctx);
    g_assert_cmpint(two.reads, ==, before);
    qcontext_unref(ctx);
    pipe_close(&one);
    pipe_close(&two);
}

static void bug_10_removal_wakes_nobody(void)
{
    /* A paused handler is asked again after a notification, and what is removed while the loop sleeps is not called later. */
    QContext *ctx = qcontext_new("bug-10", true, NULL);
    Pipe pair;

    pipe_open(&pair, ctx);
    pair.paused = true;
    set_fd_handler2(ctx, pair.fds[0], pipe_may_read, pipe_read, NULL, &pair);
    pipe_put(&pair);
    wait_for(&pair.asked, 1);
    g_atomic_int_set(&pair.paused, false);
    qcontext_notify(ctx);
    wait_for(&pair.reads, 1);
    set_fd_handler(ctx, pair.fds[0], NULL, NULL, NULL);
    pipe_put(&pair);
    qcontext_stop_thread(ctx);
    g_assert_cmpint(pair.reads, ==, 1);
    qcontext_unref(ctx);
    pipe_close(&pair);
}

int main(int argc, char **argv)
{
    alarm(120);
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(qemu_init_main_loop(), ==, 0);
#define ADD(name) g_test_add_func("/2013/" #name, name)
    ADD(bug_1_lock_kept_after_check);
    ADD(bug_2_read_callback_for_any_event);
    ADD(bug_3_callbacks_under_the_list_lock);
    ADD(bug_4_wakes_every_ten_milliseconds);
    ADD(bug_5_removed_fd_stays_polled);
    ADD(bug_6_end_with_handlers);
    ADD(bug_7_iohandlers_twice_or_never);
    ADD(bug_9_nested_loop_frees_records);
    ADD(bug_10_removal_wakes_nobody);
    return g_test_run();
}
