/* GIO, unmodified, on named contexts: a D-Bus server on one, its client on another, bottom halves from a third thread on both. */
#include "support.h"
#include <gio/gio.h>

static const char interface_xml[] =
    "<node><interface name='org.example.Echo'><method name='Echo'>"
    "<arg type='s' direction='in'/><arg type='s' direction='out'/></method></interface></node>";

enum { CALLS = 100 };

typedef struct {
    QContext *context;
    gpointer home;
    char *address;
    GDBusServer *server;
    GDBusConnection *connection;
    guint object;
    GDBusNodeInfo *info;
    gint served, replied, wrong_thread;
} Side;

static void note_thread(Side *side)
{
    if (g_thread_self() != side->home) {
        g_atomic_int_inc(&side->wrong_thread);
    }
}

static void on_method(GDBusConnection *connection, const char *sender, const char *path, const char *interface,
                      const char *method, GVariant *parameters, GDBusMethodInvocation *invocation, gpointer data)
{
    (void)connection, (void)sender, (void)path, (void)interface, (void)method;
    note_thread(data);
    g_atomic_int_inc(&((Side *)data)->served);
    g_dbus_method_invocation_return_value(invocation, parameters);
}

static gboolean on_connection(GDBusServer *server, GDBusConnection *connection, gpointer data)
{
    static const GDBusInterfaceVTable table = { .method_call = on_method };
    Side *side = data;

    (void)server;
    note_thread(side);
    side->connection = g_object_ref(connection);
    side->object = g_dbus_connection_register_object(connection, "/echo", side->info->interfaces[0], &table, side,
                                                     NULL, NULL);
    g_assert_cmpuint(side->object, !=, 0);
    return TRUE;
}

static void start_server(gpointer data)
{
    Side *side = data;
    GError *error = NULL;
    g_autofree char *guid = g_dbus_generate_guid();

    side->server = g_dbus_server_new_sync(side->address, G_DBUS_SERVER_FLAGS_AUTHENTICATION_ALLOW_ANONYMOUS, guid,
                                          NULL, NULL, &error);
    g_assert_no_error(error);
    g_signal_connect(side->server, "new-connection", G_CALLBACK(on_connection), side);
    g_dbus_server_start(side->server);
}

static void call_once(Side *side);

static void on_reply(GObject *source, GAsyncResult *result, gpointer data)
{
    Side *side = data;
    GError *error = NULL;
    g_autoptr(GVariant) reply = g_dbus_connection_call_finish(G_DBUS_CONNECTION(source), result, &error);

    g_assert_no_error(error);
    note_thread(side);
    g_assert_cmpstr(g_variant_get_type_string(reply), ==, "(s)");
    if (g_atomic_int_add(&side->replied, 1) + 1 < CALLS) {
        call_once(side);
    }
}

static void call_once(Side *side)
{
    g_dbus_connection_call(side->connection, NULL, "/echo", "org.example.Echo", "Echo", g_variant_new("(s)", "hello"),
                           NULL, G_DBUS_CALL_FLAGS_NONE, -1, NULL, on_reply, side);
}

static void on_connected(GObject *source, GAsyncResult *result, gpointer data)
{
    Side *side = data;
    GError *error = NULL;

    (void)source;
    side->connection = g_dbus_connection_new_for_address_finish(result, &error);
    g_assert_no_error(error);
    note_thread(side);
    call_once(side);
}

static void start_client(gpointer data)
{
    g_dbus_connection_new_for_address(((Side *)data)->address, G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT, NULL,
                                      NULL, on_connected, data);
}

static void end_side(gpointer data)
{
    Side *side = data;

    if (side->object) {
        g_dbus_connection_unregister_object(side->connection, side->object);
    }
    if (side->server) {
        g_dbus_server_stop(side->server);
    }
    g_clear_object(&side->server);
    g_dbus_connection_close_sync(side->connection, NULL, NULL);
    g_clear_object(&side->connection);
}

int main(void)
{
    g_autofree char *folder = g_dir_make_tmp("qcontext-gdbus-XXXXXX", NULL);
    g_autofree char *address = g_strdup_printf("unix:path=%s/bus", folder);
    GDBusNodeInfo *info = g_dbus_node_info_new_for_xml(interface_xml, NULL);
    Side server = { .context = new_threaded("server"), .address = address, .info = info };
    Side client = { .context = new_threaded("client"), .address = address };
    Side *sides[] = { &server, &client };
    Probe probes[2] = { { 0 } };
    QContextBh *bhs[2];

    alarm(TEST_DEADLINE_S);
    for (int i = 0; i < 2; i++) {
        QContextAio *aio = qcontext_get_aio(sides[i]->context, NULL);

        sides[i]->home = home_of(sides[i]->context);
        bhs[i] = qcontext_bh_new(aio, "witness", probe_call, &probes[i], probe_destroy);
        qcontext_aio_unref(aio);
    }
    g_assert_true(qcontext_invoke_sync(server.context, start_server, &server, NULL));
    g_assert_true(qcontext_invoke_sync(client.context, start_client, &client, NULL));
    do {
        qcontext_bh_schedule(bhs[0]);
        qcontext_bh_schedule(bhs[1]);
        g_usleep(100);
    } while (g_atomic_int_get(&client.replied) < CALLS);
    wait_for(&probes[0].calls, 1);
    wait_for(&probes[1].calls, 1);
    g_assert_cmpint(server.served, ==, CALLS);
    g_assert_cmpint(server.wrong_thread + client.wrong_thread, ==, 0);
    g_assert_true(qcontext_invoke_sync(client.context, end_side, &client, NULL));
    g_assert_true(qcontext_invoke_sync(server.context, end_side, &server, NULL));
    for (int i = 0; i < 2; i++) {
        qcontext_bh_delete(bhs[i]);
        wait_for(&probes[i].destroyed, 1);
        g_assert_true(probes[i].destroy_thread == sides[i]->home);
        g_assert_true(qcontext_stop(sides[i]->context, NULL));
        qcontext_unref(sides[i]->context);
    }
    g_dbus_node_info_unref(info);
    g_autofree char *path = g_build_filename(folder, "bus", NULL);
    unlink(path);
    rmdir(folder);
    return 0;
}
