/* A libnvidia-ml.so.1 that answers from a file, so that the unmodified nvidia-ml-py can be driven.
 *
 * The file is named by FAKE_NVML_STATE and read again at each call; without it there is no driver
 * library (error 12). One `key=value` per line, N is the index of a GPU:
 *
 *   count=2                    GPUs                       epoch=7        another number: the driver
 *   N.uuid=GPU-...  N.name=...                                           was loaded anew
 *   N.power_mw=251000          N.energy_mj=123456         N.util=87      absent = not supported (3)
 *   N.limit_mw=400000          N.managed_limit_mw=400000  N.virt=2
 *   N.mig=1  N.mig_uuids=MIG-a,MIG-b                      N.lost=1
 *   N.mig_slices=1,3           compute slices of each MIG device (N.gi_slices: of its GPU instance)
 *   N.mig_max=7                MIG devices that the board may have
 *   N.energy_mj=integrate      power_mw times the time since the library was loaded
 *   error.FUNC=15              N.error.FUNC=999           FUNC without its version, as nvmlInit
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>

#define GPUS 64
#define SLICES 8

struct nvmlDevice_st {
    int gpu;
    int slice; /* -1 = the board itself */
};

static struct nvmlDevice_st boards[GPUS];
static struct nvmlDevice_st slices[GPUS][SLICES];
static int openings;
static char opened_epoch[64];

static double now_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double loaded_s;

__attribute__((constructor)) static void loaded(void) { loaded_s = now_s(); }

/* Copies the value of a key; 0 when the file or the key is missing. */
static int state(const char *key, char *value, size_t size)
{
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path == NULL ? NULL : fopen(path, "r");
    char line[1024];
    int found = 0;
    size_t length = strlen(key);
    if (file == NULL)
        return 0;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\r\n")] = '\0';
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            snprintf(value, size, "%s", line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static int gpu_state(int gpu, const char *key, char *value, size_t size)
{
    char full[256];
    snprintf(full, sizeof full, "%d.%s", gpu, key);
    return state(full, value, size);
}

static nvmlReturn_t injected(const char *function, int gpu)
{
    char key[256], value[64];
    snprintf(key, sizeof key, "error.%s", function);
    if (gpu >= 0 && gpu_state(gpu, key, value, sizeof value))
        return (nvmlReturn_t)atoi(value);
    return state(key, value, sizeof value) ? (nvmlReturn_t)atoi(value) : NVML_SUCCESS;
}

static int is_stale(void)
{
    char epoch[64] = "";
    state("epoch", epoch, sizeof epoch);
    return openings == 0 || strcmp(epoch, opened_epoch) != 0;
}

/* What every call answers before it looks at anything. */
static nvmlReturn_t refusal(const char *function, int gpu)
{
    char value[64];
    nvmlReturn_t error = injected(function, gpu);
    if (error != NVML_SUCCESS)
        return error;
    if (is_stale())
        return NVML_ERROR_UNINITIALIZED;
    if (gpu >= 0 && gpu_state(gpu, "lost", value, sizeof value) && atoi(value))
        return NVML_ERROR_GPU_IS_LOST;
    return NVML_SUCCESS;
}

static nvmlReturn_t number(const char *function, nvmlDevice_t device, const char *key, double *value)
{
    char text[64];
    nvmlReturn_t error = refusal(function, device->gpu);
    if (error != NVML_SUCCESS)
        return error;
    if (!gpu_state(device->gpu, key, text, sizeof text))
        return NVML_ERROR_NOT_SUPPORTED;
    *value = strtod(text, NULL);
    return NVML_SUCCESS;
}

static nvmlReturn_t whole(const char *function, nvmlDevice_t device, const char *key, unsigned *value)
{
    double wide;
    nvmlReturn_t error = number(function, device, key, &wide);
    if (error == NVML_SUCCESS)
        *value = (unsigned)wide;
    return error;
}

static int gpus(void)
{
    char value[64];
    int count = state("count", value, sizeof value) ? atoi(value) : 0;
    return count < GPUS ? count : GPUS;
}

static void uuid_of(int gpu, char *uuid, size_t size)
{
    if (!gpu_state(gpu, "uuid", uuid, size))
        snprintf(uuid, size, "GPU-%08x-0000-4000-8000-000000000000", gpu);
}

/* The n-th word of a list of a GPU; 0 when there is none. */
static int listed(int gpu, const char *key, int n, char *word, size_t size)
{
    char all[512], *rest = all, *next;
    if (!gpu_state(gpu, key, all, sizeof all))
        return 0;
    for (int i = 0; (next = strsep(&rest, ",")) != NULL; i++)
        if (i == n) {
            snprintf(word, size, "%s", next);
            return 1;
        }
    return 0;
}

static int slice_uuid(int gpu, int slice, char *uuid, size_t size)
{
    return listed(gpu, "mig_uuids", slice, uuid, size);
}

static nvmlReturn_t copy(const char *text, char *buffer, unsigned length)
{
    if (strlen(text) + 1 > length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    nvmlReturn_t error;
    (void)flags;
    if (getenv("FAKE_NVML_STATE") == NULL)
        return NVML_ERROR_LIBRARY_NOT_FOUND;
    error = injected("nvmlInit", -1);
    if (error != NVML_SUCCESS)
        return error;
    openings++;
    opened_epoch[0] = '\0';
    state("epoch", opened_epoch, sizeof opened_epoch);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown(void)
{
    nvmlReturn_t error = injected("nvmlShutdown", -1);
    if (error != NVML_SUCCESS)
        return error;
    if (openings == 0)
        return NVML_ERROR_UNINITIALIZED;
    openings--;
    return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
    static char text[64];
    snprintf(text, sizeof text, "fake error %d", (int)result);
    return text;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    nvmlReturn_t error = refusal("nvmlSystemGetDriverVersion", -1);
    return error != NVML_SUCCESS ? error : copy("580.00.00", version, length);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    nvmlReturn_t error = refusal("nvmlDeviceGetCount", -1);
    if (error == NVML_SUCCESS)
        *count = (unsigned)gpus();
    return error;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    nvmlReturn_t error = refusal("nvmlDeviceGetHandleByIndex", (int)index);
    if (error != NVML_SUCCESS)
        return error;
    if ((int)index >= gpus())
        return NVML_ERROR_INVALID_ARGUMENT;
    boards[index].gpu = (int)index;
    boards[index].slice = -1;
    *device = &boards[index];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    char own[512];
    nvmlReturn_t error = refusal("nvmlDeviceGetHandleByUUID", -1);
    if (error != NVML_SUCCESS)
        return error;
    for (int gpu = 0; gpu < gpus(); gpu++) {
        uuid_of(gpu, own, sizeof own);
        if (strcmp(uuid, own) == 0)
            return nvmlDeviceGetHandleByIndex_v2((unsigned)gpu, device);
        for (int slice = 0; slice < SLICES && slice_uuid(gpu, slice, own, sizeof own); slice++)
            if (strcmp(uuid, own) == 0) {
                slices[gpu][slice].gpu = gpu;
                slices[gpu][slice].slice = slice;
                *device = &slices[gpu][slice];
                return NVML_SUCCESS;
            }
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t slice, nvmlDevice_t *device)
{
    nvmlReturn_t error = refusal("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", slice->gpu);
    if (error != NVML_SUCCESS)
        return error;
    if (slice->slice < 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    return nvmlDeviceGetHandleByIndex_v2((unsigned)slice->gpu, device);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    char own[512];
    nvmlReturn_t error = refusal("nvmlDeviceGetUUID", device->gpu);
    if (error != NVML_SUCCESS)
        return error;
    if (device->slice < 0 || !slice_uuid(device->gpu, device->slice, own, sizeof own))
        uuid_of(device->gpu, own, sizeof own);
    return copy(own, uuid, length);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    char own[512];
    nvmlReturn_t error = refusal("nvmlDeviceGetName", device->gpu);
    if (error != NVML_SUCCESS)
        return error;
    if (!gpu_state(device->gpu, "name", own, sizeof own))
        snprintf(own, sizeof own, "NVIDIA A100-SXM4-80GB");
    return copy(own, name, length);
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power)
{
    return whole("nvmlDeviceGetPowerUsage", device, "power_mw", power);
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy)
{
    char text[64];
    double power_mw = 0;
    nvmlReturn_t error = refusal("nvmlDeviceGetTotalEnergyConsumption", device->gpu);
    if (error != NVML_SUCCESS)
        return error;
    if (!gpu_state(device->gpu, "energy_mj", text, sizeof text))
        return NVML_ERROR_NOT_SUPPORTED;
    if (strcmp(text, "integrate") != 0) {
        *energy = strtoull(text, NULL, 10);
        return NVML_SUCCESS;
    }
    if (gpu_state(device->gpu, "power_mw", text, sizeof text))
        power_mw = strtod(text, NULL);
    *energy = (unsigned long long)(power_mw * (now_s() - loaded_s));
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
    utilization->memory = 0;
    return whole("nvmlDeviceGetUtilizationRates", device, "util", &utilization->gpu);
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *limit)
{
    return whole("nvmlDeviceGetEnforcedPowerLimit", device, "limit_mw", limit);
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *limit)
{
    return whole("nvmlDeviceGetPowerManagementLimit", device, "managed_limit_mw", limit);
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    nvmlReturn_t error = whole("nvmlDeviceGetMigMode", device, "mig", current);
    *pending = *current;
    return error;
}

nvmlReturn_t nvmlDeviceGetVirtualizationMode(nvmlDevice_t device, nvmlGpuVirtualizationMode_t *mode)
{
    unsigned value = 0;
    nvmlReturn_t error = whole("nvmlDeviceGetVirtualizationMode", device, "virt", &value);
    *mode = (nvmlGpuVirtualizationMode_t)value;
    return error;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    return whole("nvmlDeviceGetMaxMigDeviceCount", device, "mig_max", count);
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    char text[64];
    nvmlReturn_t error = refusal("nvmlDeviceGetAttributes", device->gpu);
    if (error != NVML_SUCCESS)
        return error;
    memset(attributes, 0, sizeof *attributes);
    if (device->slice < 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!listed(device->gpu, "mig_slices", device->slice, text, sizeof text))
        return NVML_ERROR_NOT_SUPPORTED;
    attributes->computeInstanceSliceCount = (unsigned)atoi(text);
    attributes->gpuInstanceSliceCount = attributes->computeInstanceSliceCount;
    if (listed(device->gpu, "gi_slices", device->slice, text, sizeof text))
        attributes->gpuInstanceSliceCount = (unsigned)atoi(text);
    return NVML_SUCCESS;
}
