// Uses the header in C++17, with a group of one member.
#include <galerna.h>

#include <atomic>
#include <cstdio>
#include <string>
#include <unistd.h>

namespace {

void view(void *context, const galerna_view_t *view)
{
    auto *count = static_cast<std::atomic<int> *>(context);
    *count += view->number == 0 && view->member_count == 1 && view->members[view->rank] == 1;
}

void deliver(void *context, const galerna_message_t *message)
{
    auto *count = static_cast<std::atomic<int> *>(context);
    *count += message->length == 5 && message->mode == GALERNA_MODE_SAFE;
}

int failed(const char *what)
{
    std::fprintf(stderr, "%s: %s\n", what, galerna_last_error());
    return 1;
}

} // namespace

int main()
{
    const std::string toml = "group = \"cpp\"\nmember = 1\nfabric = \"shm\"\n"
                             "members = [{ id = 1, address = \"unix:/tmp/galerna-cpp-" +
                             std::to_string(getpid()) + ".sock\" }]\n";
    std::atomic<int> count{0};
    galerna_config_t *config = nullptr;
    galerna_group_t *group = nullptr;
    galerna_callbacks_t callbacks = GALERNA_CALLBACKS_INIT;
    callbacks.deliver = deliver;
    callbacks.view = view;
    callbacks.context = &count;
    if (galerna_config_from_toml(toml.c_str(), &config) != GALERNA_OK) {
        return failed("configuration");
    }
    if (galerna_group_join(config, &callbacks, GALERNA_DRIVE_DISPATCH, &group) != GALERNA_OK) {
        return failed("join");
    }
    galerna_config_free(config);
    for (int i = 0; i < 100; i++) {
        if (galerna_group_send(group, 0, GALERNA_MODE_SAFE, "hello", 5, 1000, NULL) != GALERNA_OK) {
            return failed("send");
        }
    }
    if (galerna_group_leave(group, 10000) != GALERNA_OK) {
        return failed("leave");
    }
    galerna_group_free(group);
    return count == 101 ? 0 : 1;
}
