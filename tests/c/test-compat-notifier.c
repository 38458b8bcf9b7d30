/* Event notifiers as code written for QEMU uses them, also polled. */
#include "compat-support.h"

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

int main(int argc, char **argv)
{
    compat_init(&argc, &argv);
    g_test_add_func("/compat/notifier", test_notifier);
    g_test_add_func("/compat/notify-and-references", test_notify_and_references);
    g_test_add_func("/compat/notifier-on-the-main-loop", test_notifier_on_the_main_loop);
    g_test_add_func("/compat/polling", test_polling);
    return compat_run();
}
