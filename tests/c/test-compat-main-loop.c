/* The main loop's two AioContexts, and programs that poll fds of their own in it. */
#include "compat-support.h"
#include <glib-unix.h>

typedef struct {
    int fds[2], reads;
} Readable;

static void read_byte(void *opaque)
{
    Readable *self = opaque;
    char byte;

    g_assert_cmpint(read(self->fds[0], &byte, 1), ==, 1);
    self->reads++;
}

/* An fd that qemu_set_fd_handler() watches and that is readable. */
static void open_readable(Readable *self)
{
    self->reads = 0;
    g_assert_cmpint(pipe(self->fds), ==, 0);
    g_assert_cmpint(qemu_set_fd_handler(self->fds[0], read_byte, NULL, self), ==, 0);
    g_assert_cmpint(write(self->fds[1], "x", 1), ==, 1);
}

static void close_readable(Readable *self)
{
    qemu_set_fd_handler(self->fds[0], NULL, NULL, NULL);
    close(self->fds[0]);
    close(self->fds[1]);
}

static void read_in_main_loop(Readable *self)
{
    while (!self->reads) {
        main_loop_wait(false);
    }
    g_assert_cmpint(self->reads, ==, 1);
}

static void polling_the_main_context_leaves_iohandlers_alone(void)
{
    AioContext *aio = qemu_get_aio_context();
    Readable readable;
    int n = 0;

    open_readable(&readable);
    for (int i = 0; i < 5; i++) {
        g_assert_false(aio_poll(aio, false));
    }
    aio_bh_schedule_oneshot(aio, count, &n);
    g_assert_true(aio_poll(aio, true));
    g_assert_cmpint(n, ==, 1);
    g_assert_cmpint(readable.reads, ==, 0);
    read_in_main_loop(&readable);
    close_readable(&readable);
}

static void a_ready_iohandler_does_not_end_the_wait(void)
{
    AioContext *aio = qemu_get_aio_context();
    QEMUTimer *timer;
    Readable readable;
    int n = 0;

    open_readable(&readable);
    /* Consumes notifications. */
    g_assert_false(aio_poll(aio, false));
    timer = timer_new_ms(QEMU_CLOCK_REALTIME, count, &n);
    for (int i = 1; i <= 3; i++) {
        timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 20);
        /* One call sleeps the whole time. */
        g_assert_true(aio_poll(aio, true));
        g_assert_cmpint(n, ==, i);
        g_assert_cmpint(readable.reads, ==, 0);
    }
    read_in_main_loop(&readable);
    timer_free(timer);
    close_readable(&readable);
}

static void bottom_halves_of_iohandlers_wait_for_the_main_loop(void)
{
    /* A monitor moves itself there, so that its commands do not run inside a drain. */
    AioContext *aio = qemu_get_aio_context(), *iohandlers = iohandler_get_aio_context();
    QEMUTimer *timer;
    int n = 0;

    aio_bh_schedule_oneshot(iohandlers, count, &n);
    timer = aio_timer_new(iohandlers, QEMU_CLOCK_REALTIME, SCALE_NS, count, &n);
    timer_mod(timer, 0);
    g_assert_false(aio_poll(aio, false));
    g_assert_cmpint(n, ==, 0);
    while (n < 2) {
        main_loop_wait(false);
    }
    timer_free(timer);
}

static void polling_the_iohandlers_leaves_the_main_context_alone(void)
{
    AioContext *aio = qemu_get_aio_context(), *iohandlers = iohandler_get_aio_context();
    Readable readable;
    int n = 0;

    open_readable(&readable);
    aio_bh_schedule_oneshot(aio, count, &n);
    g_assert_true(aio_poll(iohandlers, true));
    g_assert_cmpint(readable.reads, ==, 1);
    g_assert_cmpint(n, ==, 0);
    while (!n) {
        main_loop_wait(false);
    }
    close_readable(&readable);
}

typedef struct {
    Readable *readable;
    int n;
} Drain;

static void drain(void *opaque)
{
    Drain *self = opaque;

    /* Inside an iteration that has found the fd ready already. */
    for (int i = 0; i < 3; i++) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), count, &self->n);
        AIO_WAIT_WHILE(NULL, self->n == i);
        g_assert_cmpint(self->readable->reads, ==, 0);
    }
}

static void nested_poll_leaves_iohandlers_alone(void)
{
    Readable readable;
    Drain self = { &readable, 0 };

    open_readable(&readable);
    aio_bh_schedule_oneshot(qemu_get_aio_context(), drain, &self);
    while (self.n < 3) {
        g_assert_cmpint(readable.reads, ==, 0);
        main_loop_wait(false);
    }
    read_in_main_loop(&readable);
    close_readable(&readable);
}

static gboolean attached(gint fd, GIOCondition condition, gpointer data)
{
    (void)fd;
    (void)condition;
    ++*(int *)data;
    return G_SOURCE_CONTINUE;
}

static void a_ready_gsource_does_not_end_the_wait(void)
{
    AioContext *aio = qemu_get_aio_context();
    int fds[2], n = 0, fired = 0;
    QEMUTimer *timer = timer_new_ms(QEMU_CLOCK_REALTIME, count, &fired);
    GSource *source;

    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    source = g_unix_fd_source_new(fds[0], G_IO_IN);
    g_source_set_callback(source, G_SOURCE_FUNC((void (*)(void))attached), &n, NULL);
    g_source_attach(source, NULL);
    g_assert_true(qcontext_iterate(qcontext_get_main(), FALSE, NULL));
    timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 20);
    g_assert_true(aio_poll(aio, true));
    g_assert_cmpint(fired, ==, 1);
    g_source_destroy(source);
    g_source_unref(source);
    timer_free(timer);
    close(fds[0]);
    close(fds[1]);
}

static void a_contexts_own_aio_leaves_its_fd_handlers_alone(void)
{
    QContext *context = qcontext_new("two-aios", FALSE, NULL);
    QContextAio *aio = qcontext_get_aio(context, NULL);
    Readable readable = { .reads = 0 };
    int n = 0;
    QContextTimer *timer = qcontext_timer_new(aio, QCONTEXT_CLOCK_REALTIME, SCALE_MS, count, &n, NULL);

    g_assert_cmpint(pipe(readable.fds), ==, 0);
    g_assert_true(qcontext_set_fd_handler(context, readable.fds[0], NULL, read_byte, NULL, &readable, NULL, NULL));
    g_assert_cmpint(write(readable.fds[1], "x", 1), ==, 1);
    g_assert_false(qcontext_aio_poll(aio, FALSE, NULL));
    for (int i = 1; i <= 3; i++) {
        qcontext_timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 20);
        g_assert_true(qcontext_aio_poll(aio, TRUE, NULL));
        g_assert_cmpint(n, ==, i);
        g_assert_cmpint(readable.reads, ==, 0);
    }
    g_assert_true(qcontext_iterate(context, TRUE, NULL));
    g_assert_cmpint(readable.reads, ==, 1);
    qcontext_remove_fd(context, readable.fds[0]);
    qcontext_timer_free(timer);
    qcontext_aio_unref(aio);
    qcontext_unref(context);
    close(readable.fds[0]);
    close(readable.fds[1]);
}

typedef struct {
    Notifier notifier;
    GPollFD fd;
    guint place;
    int fills, polls;
    bool ready;
} Polled;

static void poll_event(Notifier *notifier, void *data)
{
    Polled *self = (Polled *)notifier;
    MainLoopPoll *poll = data;

    if (poll->state == MAIN_LOOP_POLL_FILL) {
        self->place = poll->pollfds->len;
        g_array_append_val(poll->pollfds, self->fd);
        poll->timeout = MIN(poll->timeout, 5000u);
        self->fills++;
    } else {
        g_assert_cmpint(poll->state, ==, MAIN_LOOP_POLL_OK);
        g_assert_cmpint(poll->state, !=, MAIN_LOOP_POLL_ERR);
        self->ready = g_array_index(poll->pollfds, GPollFD, self->place).revents != 0;
        self->polls++;
    }
}

static void lower_timeout(Notifier *notifier, void *data)
{
    MainLoopPoll *poll = data;

    (void)notifier;
    if (poll->state == MAIN_LOOP_POLL_FILL) {
        poll->timeout = 10;
    }
}

static void notifiers_add_fds_to_the_wait(void)
{
    int fds[2];
    Polled first = { .notifier = { poll_event } }, second = { .notifier = { poll_event } };
    Notifier hurry = { lower_timeout };

    g_assert_cmpint(pipe(fds), ==, 0);
    first.fd = (GPollFD){ .fd = fds[0], .events = G_IO_IN };
    second.fd = (GPollFD){ .fd = fds[1], .events = G_IO_IN };
    while (main_loop_wait(true)) {
    }
    main_loop_poll_add_notifier(&first.notifier);
    main_loop_poll_add_notifier(&second.notifier);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    main_loop_wait(false);
    main_loop_wait(false);
    g_assert_true(first.ready);
    g_assert_false(second.ready);
    g_assert_cmpint(first.fills, ==, 2);
    g_assert_cmpint(second.polls, ==, 2);
    main_loop_poll_remove_notifier(&first.notifier);
    main_loop_poll_remove_notifier(&first.notifier);
    /* A wait of 10 ms, and not of 5 s. */
    main_loop_poll_add_notifier(&hurry);
    while (main_loop_wait(true)) {
    }
    int64_t before = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    main_loop_wait(false);
    g_assert_cmpint(qemu_clock_get_ms(QEMU_CLOCK_REALTIME) - before, <, 4000);
    main_loop_poll_remove_notifier(&hurry);
    main_loop_poll_remove_notifier(&second.notifier);
    main_loop_wait(true);
    g_assert_cmpint(first.fills, ==, 2);
    close(fds[0]);
    close(fds[1]);
}

static IOReadHandler copy_bytes;

static void copy_bytes(void *opaque, const uint8_t *buf, int size)
{
    memcpy(opaque, buf, (size_t)size);
}

static void types_of_callbacks(void)
{
    IOReadHandler *handler = copy_bytes;
    char copy[3];

    handler(copy, (const uint8_t *)"ab", 3);
    g_assert_cmpstr(copy, ==, "ab");
}

static void accepted_notification_does_not_end_the_wait(void)
{
    int n = 0;
    QEMUTimer *timer = aio_timer_new(ctx, QEMU_CLOCK_REALTIME, SCALE_MS, count, &n);

    aio_notify(ctx);
    timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 20);
    aio_notify_accept(ctx);
    g_assert_true(aio_poll(ctx, true));
    g_assert_cmpint(n, ==, 1);
    timer_free(timer);
}

int main(int argc, char **argv)
{
    compat_init(&argc, &argv);
#define ADD(name) g_test_add_func("/main-loop/" #name, name)
    ADD(polling_the_main_context_leaves_iohandlers_alone);
    ADD(a_ready_iohandler_does_not_end_the_wait);
    ADD(bottom_halves_of_iohandlers_wait_for_the_main_loop);
    ADD(polling_the_iohandlers_leaves_the_main_context_alone);
    ADD(nested_poll_leaves_iohandlers_alone);
    ADD(a_ready_gsource_does_not_end_the_wait);
    ADD(a_contexts_own_aio_leaves_its_fd_handlers_alone);
    ADD(notifiers_add_fds_to_the_wait);
    ADD(types_of_callbacks);
    ADD(accepted_notification_does_not_end_the_wait);
    return compat_run();
}
