/* libvncserver, unmodified, on qcontext-main, which a GMainLoop runs, while the device that draws has a context of its own and moves to
 * another. A client of libvncclient connects over loopback and gets its frames. */
#include "support.h"
#include <rfb/rfb.h>
#include <rfb/rfbclient.h>

enum { WIDTH = 64, HEIGHT = 48, BYTES = WIDTH * HEIGHT * 4 };

static rfbScreenInfoPtr screen;
static QContext *main_context;
static GMainLoop *main_loop;
static gpointer main_thread;
static gint clients_gone, drawn, misplaced;

static void note_main(void)
{
    if (g_thread_self() != main_thread) {
        g_atomic_int_inc(&misplaced);
    }
}

/* ---- The server's fds ---- */

/* Writing to a client may end it; that shows by its socket only. */
static void update_clients(void)
{
    g_autoptr(GPtrArray) clients = g_ptr_array_new();
    rfbClientIteratorPtr iterator = rfbGetClientIterator(screen);
    rfbClientPtr client;

    while ((client = rfbClientIteratorNext(iterator))) {
        g_ptr_array_add(clients, client);
    }
    rfbReleaseClientIterator(iterator);
    for (guint i = 0; i < clients->len; i++) {
        client = g_ptr_array_index(clients, i);
        rfbUpdateClient(client);
        if (client->sock < 0) {
            rfbClientConnectionGone(client);
        }
    }
}

static void on_client(gpointer client)
{
    note_main();
    rfbProcessClientMessage(client);
    if (((rfbClientPtr)client)->sock < 0) {
        rfbClientConnectionGone(client);
    } else {
        update_clients();
    }
}

static void on_client_gone(rfbClientPtr client)
{
    note_main();
    /* The number that was watched; the socket is closed already. */
    qcontext_remove_fd(main_context, GPOINTER_TO_INT(client->clientData));
    clients_gone++;
}

static enum rfbNewClientAction on_new_client(rfbClientPtr client)
{
    client->clientData = GINT_TO_POINTER(client->sock);
    client->clientGoneHook = on_client_gone;
    g_assert_true(qcontext_add_fd(main_context, client->sock, NULL, on_client, NULL, client, NULL, NULL));
    return RFB_CLIENT_ACCEPT;
}

static void on_listen(gpointer unused)
{
    (void)unused;
    note_main();
    rfbProcessNewConnection(screen);
}

/* ---- The device: draws one colour after the other on its own context ---- */

typedef struct {
    QContextAio *aio;
    QContextTimer *timer;
    gpointer home;
    guint8 colour;
} Device;

/* On qcontext-main: the server's memory is touched there only. */
static void show(gpointer colour)
{
    note_main();
    memset(screen->frameBuffer, GPOINTER_TO_INT(colour), BYTES);
    rfbMarkRectAsModified(screen, 0, 0, WIDTH, HEIGHT);
    update_clients();
}

static void draw(gpointer data)
{
    Device *device = data;

    g_assert_true(g_thread_self() == g_atomic_pointer_get(&device->home));
    device->colour = (guint8)(device->colour % 200 + 1);
    g_assert_true(qcontext_invoke(main_context, show, GINT_TO_POINTER((int)device->colour), NULL, NULL));
    g_atomic_int_inc(&drawn);
    qcontext_timer_mod_ns(device->timer, qcontext_clock_get_ns(QCONTEXT_CLOCK_VIRTUAL) + 1000000);
}

static void power(gpointer data)
{
    Device *device = data;

    qcontext_timer_mod_ns(device->timer, qcontext_clock_get_ns(QCONTEXT_CLOCK_VIRTUAL));
}

/* ---- The client, a program of its own in a thread ---- */

static gint updates;

/* Pixels of this update. */
static int received;

static void on_rectangle(rfbClient *client, int x, int y, int width, int height)
{
    (void)client;
    g_assert_cmpint(x + width, <=, WIDTH);
    g_assert_cmpint(y + height, <=, HEIGHT);
    received += width * height;
}

static void on_frame(rfbClient *client)
{
    (void)client;
    if (received == WIDTH * HEIGHT) {
        g_atomic_int_inc(&updates);
    }
    received = 0;
}

static int colour_of(rfbClient *client)
{
    /* A frame that was drawn at once is of one colour. */
    for (int i = 1; i < BYTES; i++) {
        if (i % 4 != 3 && client->frameBuffer[i] != client->frameBuffer[0]) {
            return -1;
        }
    }
    return client->frameBuffer[0];
}

static void watch(rfbClient *client, int more)
{
    int wanted = g_atomic_int_get(&updates) + more;

    while (g_atomic_int_get(&updates) < wanted) {
        g_assert_cmpint(WaitForMessage(client, 1000000), >=, 0);
        g_assert_true(HandleRFBServerMessage(client));
    }
}

static gint half_way;

static gpointer client_thread(gpointer unused)
{
    rfbClient *client = rfbGetClient(8, 3, 4);
    int colours = 0, last = -1;

    (void)unused;
    client->GotFrameBufferUpdate = on_rectangle;
    client->FinishedFrameBufferUpdate = on_frame;
    client->appData.encodingsString = "raw";
    g_free(client->serverHost);
    client->serverHost = strdup("127.0.0.1");
    client->serverPort = screen->port;
    client->canHandleNewFBSize = FALSE;
    g_assert_true(rfbInitClient(client, NULL, NULL));
    g_assert_cmpint(client->width, ==, WIDTH);
    g_assert_cmpint(client->height, ==, HEIGHT);
    for (int i = 0; i < 20; i++) {
        watch(client, 1);
        int colour = colour_of(client);
        g_assert_cmpint(colour, >=, 0);
        colours += colour != last;
        last = colour;
        if (i == 10) {
            g_atomic_int_set(&half_way, 1);
        }
    }
    g_assert_cmpint(colours, >, 1);
    free(client->frameBuffer);
    rfbClientCleanup(client);
    return NULL;
}

/* ---- The conductor: schedules bottom halves on qcontext-main and moves the device ---- */

static gpointer conduct(gpointer data)
{
    Device *device = data;
    QContext *first = new_threaded("draw1"), *second = new_threaded("draw2");
    QContextAio *aio = qcontext_get_aio(main_context, NULL);
    Probe probe = { 0 };
    QContextBh *bh = qcontext_bh_new(aio, "witness", probe_call, &probe, probe_destroy);

    g_atomic_pointer_set(&device->home, home_of(first));
    g_assert_true(qcontext_aio_attach(device->aio, first, "display", NULL));
    g_assert_true(qcontext_invoke_sync(first, power, device, NULL));
    GThread *client = g_thread_new("client", client_thread, NULL);
    while (!g_atomic_int_get(&half_way)) {
        qcontext_bh_schedule(bh);
        g_usleep(100);
    }
    g_assert_true(qcontext_aio_detach_sync(device->aio, first, NULL));
    g_atomic_pointer_set(&device->home, home_of(second));
    g_assert_true(qcontext_stop(first, NULL));
    g_assert_true(qcontext_aio_attach(device->aio, second, "display", NULL));
    g_thread_join(client);
    wait_for(&probe.calls, 1);
    g_assert_true(probe.call_thread == main_thread);
    qcontext_bh_delete(bh);
    wait_for(&probe.destroyed, 1);
    g_assert_true(qcontext_stop(second, NULL));
    qcontext_unref(first);
    qcontext_unref(second);
    qcontext_aio_unref(aio);
    g_main_loop_quit(main_loop);
    return NULL;
}

int main(void)
{
    Device device = { .aio = qcontext_aio_new(NULL) };

    alarm(TEST_DEADLINE_S);
    rfbLogEnable(FALSE);
    rfbEnableClientLogging = FALSE;
    main_context = qcontext_get_main();
    main_loop = g_main_loop_new(NULL, FALSE);
    main_thread = g_thread_self();
    screen = rfbGetScreen(NULL, NULL, WIDTH, HEIGHT, 8, 3, 4);
    screen->frameBuffer = g_malloc0(BYTES);
    /* Else it is drawn into the frame. */
    screen->cursor = NULL;
    screen->autoPort = TRUE;
    screen->listenInterface = htonl(INADDR_LOOPBACK);
    screen->newClientHook = on_new_client;
    screen->deferUpdateTime = 0;
    rfbInitServer(screen);
    g_assert_true(rfbIsActive(screen));
    g_assert_true(qcontext_add_fd(main_context, screen->listenSock, NULL, on_listen, NULL, NULL, NULL, NULL));
    device.timer = qcontext_timer_new(device.aio, QCONTEXT_CLOCK_VIRTUAL, 1, draw, &device, NULL);
    GThread *conductor = g_thread_new("conductor", conduct, &device);
    g_main_loop_run(main_loop);
    g_thread_join(conductor);
    while (!clients_gone) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpint(clients_gone, ==, 1);
    g_assert_cmpint(drawn, >, 1);
    g_assert_cmpint(misplaced, ==, 0);
    g_assert_true(qcontext_remove_fd(main_context, screen->listenSock));
    qcontext_timer_free(device.timer);
    qcontext_aio_unref(device.aio);
    /* What the device sent last may still be queued. */
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    rfbShutdownServer(screen, TRUE);
    g_free(screen->frameBuffer);
    rfbScreenCleanup(screen);
    g_main_loop_unref(main_loop);
    return 0;
}
