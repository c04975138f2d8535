// Callbacks that throw an exception: the group stops with a text that names the callback, and the process continues.
// The log callback's exception is dropped.
#include <galerna.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <unistd.h>

namespace {

constexpr uint32_t LONG_MS = 60000;

struct Member {
    bool view_throws = false;
    std::atomic<int> delivered{0};
    std::atomic<int> stopped{GALERNA_OK};
    std::string reason;
    galerna_group_t *group = nullptr;
};

void check(bool condition, const char *what)
{
    if (!condition) {
        std::fprintf(stderr, "%s; the last error is: %s\n", what, galerna_last_error());
        std::exit(1);
    }
}

void deliver(void *context, const galerna_message_t *)
{
    auto *member = static_cast<Member *>(context);
    const std::string unwound(100, 'x');
    if (++member->delivered == 2) {
        throw std::runtime_error("the application's own " + unwound);
    }
}

void view(void *context, const galerna_view_t *)
{
    if (static_cast<Member *>(context)->view_throws) {
        throw 7;
    }
}

void stopped(void *context, galerna_result_t code, const char *text)
{
    auto *member = static_cast<Member *>(context);
    member->reason = text;
    member->stopped = code;
}

galerna_result_t join(Member &member, galerna_drive_t drive)
{
    static int number = 0;
    const std::string toml = "group = \"throws\"\nmember = 1\nfabric = \"shm\"\n"
                             "members = [{ id = 1, address = \"unix:/tmp/galerna-throws-" +
                             std::to_string(getpid()) + "-" + std::to_string(number++) + ".sock\" }]\n";
    galerna_config_t *config = nullptr;
    galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
    callbacks.deliver = deliver;
    callbacks.view = view;
    callbacks.stopped = stopped;
    callbacks.context = &member;
    check(galerna_config_from_toml(toml.c_str(), &config) == GALERNA_OK, "configuration");
    const galerna_result_t result = galerna_group_join(config, &callbacks, drive, &member.group);
    galerna_config_free(config);
    return result;
}

void one_that_delivers(galerna_drive_t drive)
{
    Member member;
    check(join(member, drive) == GALERNA_OK, "join");
    for (int i = 0; i < 2; i++) {
        const galerna_result_t sent = galerna_group_send(member.group, 0, GALERNA_MODE_SAFE, "hello", 5, LONG_MS, NULL);
        check(sent == GALERNA_OK || (i == 1 && sent == GALERNA_ERR_CALLBACK), "send");
    }
    for (int i = 0; member.stopped == GALERNA_OK; i++) {
        check(i < 60000, "it does not stop");
        if (drive == GALERNA_DRIVE_DISPATCH) {
            galerna_group_dispatch(member.group);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    check(member.stopped == GALERNA_ERR_CALLBACK, "the code");
    check(member.reason.find("`deliver` callback threw") != std::string::npos, member.reason.c_str());
    check(galerna_group_send(member.group, 0, GALERNA_MODE_SAFE, "hello", 5, 0, NULL) == GALERNA_ERR_CALLBACK, "later call");
    check(galerna_group_free(member.group) == GALERNA_OK, "free");
    check(member.delivered == 2, "nothing is delivered any more");
}

void one_that_joins(galerna_drive_t drive)
{
    Member member;
    member.view_throws = true;
    check(join(member, drive) == GALERNA_ERR_CALLBACK, "join with a view that throws");
    check(std::string(galerna_last_error()).find("`view` callback threw") != std::string::npos, "the text");
    check(member.group == nullptr, "no handle");
}

std::atomic<int> lines{0};

void line(void *, galerna_log_level_t, const char *, const char *)
{
    lines++;
    throw std::runtime_error("no line is wanted");
}

// Leaves with an open reservation, which the library warns of.
void one_that_logs()
{
    Member member;
    galerna_reservation_t open{};
    open.size = sizeof open;
    check(galerna_set_log_callback(GALERNA_LOG_LEVEL_WARN, line, nullptr) == GALERNA_OK, "the log callback");
    check(join(member, GALERNA_DRIVE_THREAD) == GALERNA_OK, "join");
    check(galerna_group_reserve(member.group, 0, 8, LONG_MS, &open) == GALERNA_OK, "reserve");
    const galerna_result_t left = galerna_group_leave(member.group, 400);
    check(left == GALERNA_OK || left == GALERNA_ERR_TIMED_OUT, "leave");
    check(galerna_group_free(member.group) == GALERNA_OK, "free");
    check(lines > 0, "a line");
    check(galerna_set_log_callback(GALERNA_LOG_LEVEL_WARN, nullptr, nullptr) == GALERNA_OK, "no log callback");
}

} // namespace

int main()
{
    one_that_logs();
    for (const galerna_drive_t drive : {GALERNA_DRIVE_THREAD, GALERNA_DRIVE_DISPATCH}) {
        one_that_delivers(drive);
        one_that_joins(drive);
    }
    return 0;
}
